//! Whether a campaign's numbers agree with one another, before anything is planned. One line per
//! mistake. Never changes a campaign.

use crate::campaign::{
    Amounts, Campaign, CampaignError, NAME_BYTES_MAX, SHARD_PACKETS_MAX, SHARDS_PLANNED_MAX,
    SHARE_WHOLE, TABLE_ROWS_MAX, TICKET_LIFETIME_SECONDS_MAX, TableRow, WAVE_SECONDS_MAX,
    WAVES_PLANNED_MAX, Wave,
};
use std::collections::BTreeSet;
use yao_protocol::{
    Fen,
    limits::{SEGMENTS_MAX, SPONSORS_MAX, WAVES_MAX, WINS_PER_USER_MAX},
};

/// The error for `key`.
pub(crate) fn wrong(
    key: impl Into<String>,
    value: impl ToString,
    remedy: impl Into<String>,
) -> CampaignError {
    CampaignError::Wrong { key: key.into(), value: value.to_string(), remedy: remedy.into() }
}

impl Campaign {
    /// Checks every relation between the values that needs no plan.
    ///
    /// # Errors
    /// The first mistake.
    pub fn check(&self) -> Result<(), CampaignError> {
        self.check_head()?;
        self.check_sponsors()?;
        if !(1..=WAVES_PLANNED_MAX).contains(&self.waves.len()) {
            let remedy = format!(
                "list 1 to {WAVES_PLANNED_MAX} waves; each generation that is reclaimed takes one \
                 more of {WAVES_MAX}"
            );
            return Err(wrong("wave", self.waves.len(), remedy));
        }
        check_names("wave", self.waves.iter().map(|wave| wave.name.as_str()))?;
        for (position, wave) in self.waves.iter().enumerate() {
            let path = format!("wave[{position}]");
            self.check_budget(&path, wave)?;
            check_curve(&path, wave)?;
            self.check_amounts(&path, wave)?;
        }
        self.check_shards()
    }

    fn check_head(&self) -> Result<(), CampaignError> {
        check_names("name", [self.name.as_str()].into_iter())?;
        let code = self.currency.as_bytes();
        if code.len() != 3 || !code.iter().all(u8::is_ascii_uppercase) {
            let remedy = "write the three capital letters of ISO 4217, such as \"CNY\"";
            return Err(wrong("currency", &self.currency, remedy));
        }
        if !(1..=SHARDS_PLANNED_MAX).contains(&self.shards) {
            let remedy = format!("write 1 to {SHARDS_PLANNED_MAX}, one shard for each node");
            return Err(wrong("shards", self.shards, remedy));
        }
        if !(1..=WINS_PER_USER_MAX).contains(&self.wins_per_user) {
            let remedy = format!("write 1 to {WINS_PER_USER_MAX}");
            return Err(wrong("wins_per_user", self.wins_per_user, remedy));
        }
        if self.wins_per_sponsor != 1 {
            let remedy = "this version knows one packet of each sponsor for a user only; write 1";
            return Err(wrong("wins_per_sponsor", self.wins_per_sponsor, remedy));
        }
        if !(1..=TICKET_LIFETIME_SECONDS_MAX).contains(&self.ticket_lifetime_seconds) {
            let remedy = format!("write 1 to {TICKET_LIFETIME_SECONDS_MAX} seconds");
            return Err(wrong("ticket_lifetime", self.ticket_lifetime_seconds, remedy));
        }
        Ok(())
    }

    fn check_sponsors(&self) -> Result<(), CampaignError> {
        if !(1..=SPONSORS_MAX).contains(&self.sponsors.len()) {
            return Err(wrong("sponsor", self.sponsors.len(), "list 1 to 64 sponsors"));
        }
        check_names("sponsor", self.sponsors.iter().map(|sponsor| sponsor.name.as_str()))?;
        for (position, sponsor) in self.sponsors.iter().enumerate() {
            if !(1..=SHARE_WHOLE).contains(&sponsor.share) {
                let remedy = "give the sponsor a share above 0%, or take it out";
                return Err(wrong(
                    format!("sponsor[{position}].share"),
                    percent(sponsor.share),
                    remedy,
                ));
            }
        }
        let total: u32 = self.sponsors.iter().map(|sponsor| sponsor.share).sum();
        if total != SHARE_WHOLE {
            let remedy = "the shares of all sponsors must add up to exactly 100%";
            return Err(wrong("sponsor share", format!("{} in all", percent(total)), remedy));
        }
        Ok(())
    }

    fn check_budget(&self, path: &str, wave: &Wave) -> Result<(), CampaignError> {
        if wave.packets == 0 {
            let remedy = "a wave needs at least 1 packet; write how many, or take the wave out";
            return Err(wrong(format!("{path}.packets"), 0, remedy));
        }
        if wave.budget.0 < wave.packets {
            let (least, packets) = (self.money(Fen(wave.packets)), wave.packets);
            let remedy = format!(
                "{packets} packets of at least one minor unit each need {least}; raise the \
                 budget or write fewer packets"
            );
            return Err(wrong(format!("{path}.budget"), self.money(wave.budget), remedy));
        }
        Ok(())
    }

    fn check_amounts(&self, path: &str, wave: &Wave) -> Result<(), CampaignError> {
        match &wave.amounts {
            Amounts::Uniform => Ok(()),
            Amounts::Fixed(amount) => {
                self.check_amount(&format!("{path}.amounts.fixed"), *amount)?;
                let row = TableRow { amount: *amount, packets: wave.packets };
                self.check_sum(path, wave, &[row])
            }
            Amounts::Table(rows) => {
                let key = format!("{path}.amounts.table");
                if !(1..=TABLE_ROWS_MAX).contains(&rows.len()) {
                    let value = format!("{} rows long", rows.len());
                    return Err(wrong(key, value, format!("list 1 to {TABLE_ROWS_MAX} amounts")));
                }
                let mut seen = BTreeSet::new();
                for (position, row) in rows.iter().enumerate() {
                    let key = format!("{key}[{position}].amount");
                    self.check_amount(&key, row.amount)?;
                    if !seen.insert(row.amount) {
                        let remedy = "the amount is listed twice; add up the counts in one row";
                        return Err(wrong(key, self.money(row.amount), remedy));
                    }
                }
                self.check_sum(path, wave, rows)
            }
        }
    }

    fn check_amount(&self, key: &str, amount: Fen) -> Result<(), CampaignError> {
        if (1..=u64::from(u32::MAX)).contains(&amount.0) {
            return Ok(());
        }
        let (least, most) = (self.money(Fen(1)), self.money(Fen(u64::from(u32::MAX))));
        Err(wrong(key, self.money(amount), format!("one packet holds {least} to {most}")))
    }

    /// Whether the rows make exactly the wave's packets and budget.
    fn check_sum(&self, path: &str, wave: &Wave, rows: &[TableRow]) -> Result<(), CampaignError> {
        let packets: u128 = rows.iter().map(|row| u128::from(row.packets)).sum();
        if packets != u128::from(wave.packets) {
            let remedy = format!("the table's counts make {packets}; correct one of them");
            return Err(wrong(format!("{path}.packets"), wave.packets, remedy));
        }
        let sum: u128 =
            rows.iter().map(|row| u128::from(row.amount.0) * u128::from(row.packets)).sum();
        if sum != u128::from(wave.budget.0) {
            let reached = u64::try_from(sum)
                .map_or_else(|_| "far more".to_owned(), |sum| self.money(Fen(sum)));
            let remedy = format!(
                "this sum cannot be reached: the amounts make {reached}; correct the budget \
                 or the amounts"
            );
            return Err(wrong(format!("{path}.budget"), self.money(wave.budget), remedy));
        }
        Ok(())
    }

    /// Every shard gets at least one packet and at most [`SHARD_PACKETS_MAX`].
    fn check_shards(&self) -> Result<(), CampaignError> {
        let shards = u64::from(self.shards);
        let largest = self.waves.iter().map(|wave| wave.packets).max().unwrap_or(0);
        if largest < shards {
            let remedy = format!(
                "no wave has more than {largest} packets, so a shard would be empty; write \
                 fewer shards"
            );
            return Err(wrong("shards", shards, remedy));
        }
        let fullest: u128 =
            self.waves.iter().map(|wave| u128::from(wave.packets.div_ceil(shards))).sum();
        if fullest > u128::from(SHARD_PACKETS_MAX) {
            let remedy = format!(
                "a shard would hold {fullest} packets, at most {SHARD_PACKETS_MAX} are \
                 allowed; write more shards"
            );
            return Err(wrong("shards", shards, remedy));
        }
        let budget: u128 = self.waves.iter().map(|wave| u128::from(wave.budget.0)).sum();
        if budget > u128::from(u64::MAX) {
            let remedy = "the budgets of all waves together exceed 64 bits; lower one of them";
            return Err(wrong("wave budget", format!("{budget} minor units in all"), remedy));
        }
        Ok(())
    }

    /// `amount` in major units with the currency, such as "5.00 CNY".
    #[must_use]
    pub fn money(&self, amount: Fen) -> String {
        format!("{} {}", amount.to_decimal(self.exponent), self.currency)
    }
}

fn check_curve(path: &str, wave: &Wave) -> Result<(), CampaignError> {
    if !(1..=SEGMENTS_MAX).contains(&wave.curve.len()) {
        let value = format!("{} segments long", wave.curve.len());
        return Err(wrong(format!("{path}.curve"), value, "write 1 to 64 segments"));
    }
    if let Some(position) = wave.curve.iter().position(|segment| segment.seconds == 0) {
        let key = format!("{path}.curve[{position}].seconds");
        return Err(wrong(key, 0, "a segment lasts at least 1 second"));
    }
    if wave.seconds() > WAVE_SECONDS_MAX {
        let remedy = format!("a wave lasts at most {WAVE_SECONDS_MAX} s; shorten its curve");
        return Err(wrong(format!("{path}.curve"), format!("{} s long", wave.seconds()), remedy));
    }
    let released: u128 = wave.curve.iter().map(|segment| u128::from(segment.packets)).sum();
    if released != u128::from(wave.packets) {
        let remedy = format!("its curve releases {released}; correct one of them");
        return Err(wrong(format!("{path}.packets"), wave.packets, remedy));
    }
    Ok(())
}

/// Names are shown to people and must tell things apart.
fn check_names<'a>(key: &str, names: impl Iterator<Item = &'a str>) -> Result<(), CampaignError> {
    let mut seen = BTreeSet::new();
    for name in names {
        let printable = !name.trim().is_empty() && !name.chars().any(char::is_control);
        if !printable || name.len() > NAME_BYTES_MAX {
            let remedy = format!("write a printable name of 1 to {NAME_BYTES_MAX} bytes");
            return Err(wrong(format!("{key} name"), format!("{name:?}"), remedy));
        }
        if !seen.insert(name) {
            let remedy = format!("each {key} needs a name of its own");
            return Err(wrong(format!("{key} name"), format!("{name:?} twice"), remedy));
        }
    }
    Ok(())
}

/// A share as the file writes it.
pub(crate) fn percent(share: u32) -> String {
    format!("{}.{:02}%", share / 100, share % 100)
}
