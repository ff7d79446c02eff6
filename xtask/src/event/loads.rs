//! What the loads of an event are told on their command lines. Starts nothing.

use super::{Event, Way};

impl Event {
    /// Options that every netbench load of this event shares.
    pub(crate) fn load_options(&self) -> Vec<String> {
        let campaign = self.plan.campaign.to_string();
        let options = [
            ("--addr", self.addresses[0].as_str()),
            ("--session-key", "session/session.key.pem"),
            ("--kid", "dev-1"),
            ("--audience", "yao"),
            ("--campaign", &campaign),
            ("--first-user", "1"),
        ];
        options.iter().flat_map(|(key, value)| [(*key).to_owned(), (*value).to_owned()]).collect()
    }

    /// Options of a crowd whose clients come over TCP, TLS and QUIC in turn.
    pub(crate) fn crowd_options(&self) -> Vec<String> {
        self.crowd_options_over(&Way::ALL)
    }

    /// The same over some ways in.
    pub(crate) fn crowd_options_over(&self, ways: &[Way]) -> Vec<String> {
        let endpoints: Vec<String> = ways.iter().map(|way| self.endpoint(*way)).collect();
        self.crowd_options_to(&endpoints, 1)
    }

    /// The same to some endpoints, from this user on.
    pub(crate) fn crowd_options_to(&self, endpoints: &[String], first_user: u64) -> Vec<String> {
        let mut options = self.load_options();
        options.drain(..2);
        begin_with(&mut options, first_user);
        let addresses = endpoints.iter().map(|endpoint| ["--addr", endpoint]);
        options.extend(addresses.flatten().map(str::to_owned));
        options.extend(["--ca", Self::CA, "--in-turn"].map(str::to_owned));
        options
    }

    /// The same over `way`.
    pub(crate) fn load_options_over(&self, way: Way) -> Vec<String> {
        let mut options = self.load_options();
        options[1] = self.endpoint(way);
        options.extend(["--ca", Self::CA].map(str::to_owned));
        options
    }

    /// The same for other people, from this user on.
    pub(crate) fn load_options_from(&self, way: Way, first_user: u64) -> Vec<String> {
        let mut options = self.load_options_over(way);
        begin_with(&mut options, first_user);
        options
    }
}

/// Changes the first user in the options of a load.
fn begin_with(options: &mut [String], first_user: u64) {
    let place = options.iter().position(|option| option == "--first-user");
    options[place.expect("every load has it") + 1] = first_user.to_string();
}
