//! From the campaign's TOML to [`Campaign`]: types, spelling and units. Whether the numbers agree
//! with one another is [`crate::check`]'s business.
//!
//! ```toml
//! id = 2015
//! name = "Spring gala"
//! currency = "CNY"
//! exponent = 2
//! shards = 638
//! wins_per_user = 3
//! wins_per_sponsor = 1
//! ticket_lifetime = "72h"             # or seconds
//!
//! [[sponsor]]
//! name = "First"
//! share = "100%"                      # at most two decimals; together 100 %
//!
//! [[wave]]
//! name = "main"
//! t0 = "armed later"                  # or RFC 3339 with offset; may be left out
//! budget = "500000000.00"             # major units, all decimals
//! packets = 120000000
//! curve = [{ seconds = 2400, per_second = 50000 }]   # or: duration = "40m", for an even release
//! amounts = "uniform"                 # or { fixed = "1.00" }
//!                                     # or { table = [{ amount = "1.00", count = 10 }] }
//! ```

use crate::{
    campaign::{
        Amounts, Campaign, CampaignError, CurveSegment, EXPONENT_MAX, SHARE_WHOLE, Sponsor,
        TICKET_LIFETIME_SECONDS_MAX, TableRow, WAVE_SECONDS_MAX, Wave,
    },
    fields::Fields,
};
use toml::{Table, Value};
use yao_protocol::{CampaignId, Fen, WallTime, schedule::parse_rfc3339};

const CAMPAIGN_KEYS: &[&str] = &[
    "id",
    "name",
    "currency",
    "exponent",
    "shards",
    "wins_per_user",
    "wins_per_sponsor",
    "ticket_lifetime",
    "sponsor",
    "wave",
];
const SPONSOR_KEYS: &[&str] = &["name", "share"];
const WAVE_KEYS: &[&str] = &["name", "t0", "budget", "packets", "duration", "curve", "amounts"];
const CURVE_KEYS: &[&str] = &["seconds", "per_second"];
const AMOUNTS_KEYS: &[&str] = &["fixed", "table"];
const ROW_KEYS: &[&str] = &["amount", "count"];

const AMOUNTS_REMEDY: &str = "write \"uniform\", { fixed = \"1.00\" } or { table = [{ \
 amount = \"1.00\", count = 10 }, ...] }";
/// The largest whole number TOML holds.
const INTEGER_MAX: u64 = i64::MAX as u64;

impl Campaign {
    /// Reads a campaign file.
    ///
    /// # Errors
    /// The first mistake, as one line: see [`CampaignError`].
    pub fn parse(text: &str) -> Result<Self, CampaignError> {
        let table: Table =
            text.parse().map_err(|error: toml::de::Error| CampaignError::Syntax {
                line: text[..error.span().map_or(0, |span| span.start.min(text.len()))]
                    .matches('\n')
                    .count()
                    + 1,
                message: error.message().replace('\n', ", "),
            })?;
        let fields = Fields::new(String::new(), &table, CAMPAIGN_KEYS)?;
        let exponent = narrow::<u8>(
            &fields,
            "exponent",
            0..=u64::from(EXPONENT_MAX),
            "write how many decimals the currency's minor unit has, 0 to 4 (CNY: 2)",
        )?;
        let sponsors = fields
            .tables("sponsor", SPONSOR_KEYS, "write one [[sponsor]] for each sponsor")?
            .iter()
            .map(read_sponsor)
            .collect::<Result<_, _>>()?;
        let waves = fields
            .tables("wave", WAVE_KEYS, "write one [[wave]] for each wave")?
            .iter()
            .map(|wave| read_wave(wave, exponent))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            id: CampaignId(fields.integer(
                "id",
                0..=INTEGER_MAX,
                "write the campaign's number, such as 2015",
            )?),
            name: fields.text("name", "write the campaign's name in quotes")?.to_owned(),
            currency: fields
                .text("currency", "write the ISO 4217 code in quotes, such as \"CNY\"")?
                .to_owned(),
            exponent,
            shards: narrow(&fields, "shards", 0..=u64::from(u32::MAX), "write how many nodes")?,
            wins_per_user: narrow(
                &fields,
                "wins_per_user",
                0..=255,
                "write how many packets one user may win, such as 3",
            )?,
            wins_per_sponsor: narrow(
                &fields,
                "wins_per_sponsor",
                0..=255,
                "write 1: packets one user may win of one sponsor",
            )?,
            ticket_lifetime_seconds: fields
                .seconds("ticket_lifetime", TICKET_LIFETIME_SECONDS_MAX)?,
            sponsors,
            waves,
        })
    }
}

fn narrow<T: TryFrom<u64>>(
    fields: &Fields<'_>,
    name: &str,
    range: std::ops::RangeInclusive<u64>,
    remedy: &str,
) -> Result<T, CampaignError> {
    let value = fields.integer(name, range, remedy)?;
    T::try_from(value).map_err(|_| fields.wrong(name, remedy))
}

fn read_sponsor(fields: &Fields<'_>) -> Result<Sponsor, CampaignError> {
    let name = fields.text("name", "write the sponsor's name in quotes")?.to_owned();
    let remedy = "write a percentage with at most two decimals in quotes, such as \"12.5%\"";
    let share = parse_share(fields.text("share", remedy)?);
    Ok(Sponsor { name, share: share.ok_or_else(|| fields.wrong("share", remedy))? })
}

fn read_wave(fields: &Fields<'_>, exponent: u8) -> Result<Wave, CampaignError> {
    let packets = fields.integer("packets", 0..=INTEGER_MAX, "write how many packets")?;
    Ok(Wave {
        name: fields.text("name", "write the wave's name in quotes")?.to_owned(),
        budget: read_money(fields, "budget", exponent)?,
        packets,
        t0: read_t0(fields)?,
        curve: read_curve(fields, packets)?,
        amounts: read_amounts(fields, exponent)?,
    })
}

fn read_money(fields: &Fields<'_>, name: &str, exponent: u8) -> Result<Fen, CampaignError> {
    let example = Fen(500).to_decimal(exponent);
    let remedy = format!(
        "write major units with exactly {exponent} decimals in quotes, such as \"{example}\""
    );
    let text = fields.text(name, &remedy)?;
    Fen::from_decimal(text, exponent).ok_or_else(|| fields.wrong(name, &remedy))
}

fn read_t0(fields: &Fields<'_>) -> Result<Option<WallTime>, CampaignError> {
    let text = match fields.value("t0") {
        None => return Ok(None),
        Some(Value::String(text)) if text == "armed later" => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let remedy =
        "write \"armed later\" or a time with offset, such as \"2015-02-18T22:30:00+08:00\"";
    parse_rfc3339(&text).map(Some).ok_or_else(|| fields.wrong("t0", remedy))
}

/// Either `duration` alone (even release) or `curve`; with both, they must agree.
fn read_curve(fields: &Fields<'_>, packets: u64) -> Result<Vec<CurveSegment>, CampaignError> {
    let remedy =
        "write [{ seconds = 2400, per_second = 50000 }, ...], or \"flat\" with a `duration`";
    let flat = match fields.value("curve") {
        None => true,
        Some(value) => value.as_str() == Some("flat"),
    };
    if flat {
        let seconds = fields.seconds("duration", WAVE_SECONDS_MAX)?;
        let seconds = u32::try_from(seconds).expect("a wave lasts at most thirty days");
        return Ok(vec![CurveSegment { seconds, packets }]);
    }
    let rows = fields.tables("curve", CURVE_KEYS, remedy)?;
    let curve = rows.iter().map(read_segment).collect::<Result<Vec<_>, _>>()?;
    let total: u64 = curve.iter().map(|segment| u64::from(segment.seconds)).sum();
    if fields.value("duration").is_some() && fields.seconds("duration", WAVE_SECONDS_MAX)? != total
    {
        let remedy = format!("its curve lasts {total} s; correct one of them, or drop `duration`");
        return Err(fields.wrong("duration", &remedy));
    }
    Ok(curve)
}

fn read_segment(fields: &Fields<'_>) -> Result<CurveSegment, CampaignError> {
    let seconds = narrow::<u32>(
        fields,
        "seconds",
        1..=WAVE_SECONDS_MAX,
        "write how long the segment lasts, whole seconds, at least 1",
    )?;
    let remedy = "write how many packets all shards together release each second";
    let per_second = fields.integer("per_second", 0..=INTEGER_MAX, remedy)?;
    let packets = per_second.checked_mul(u64::from(seconds));
    Ok(CurveSegment {
        seconds,
        packets: packets.ok_or_else(|| fields.wrong("per_second", remedy))?,
    })
}

fn read_amounts(fields: &Fields<'_>, exponent: u8) -> Result<Amounts, CampaignError> {
    let table = match fields.required("amounts", AMOUNTS_REMEDY)? {
        Value::String(text) if text == "uniform" => return Ok(Amounts::Uniform),
        Value::Table(table) => table,
        _ => return Err(fields.wrong("amounts", AMOUNTS_REMEDY)),
    };
    let inner = Fields::new(fields.key("amounts"), table, AMOUNTS_KEYS)?;
    match (inner.value("fixed"), inner.value("table")) {
        (Some(_), None) => Ok(Amounts::Fixed(read_money(&inner, "fixed", exponent)?)),
        (None, Some(_)) => {
            let rows = inner.tables("table", ROW_KEYS, AMOUNTS_REMEDY)?;
            let rows = rows.iter().map(|row| read_row(row, exponent));
            Ok(Amounts::Table(rows.collect::<Result<_, _>>()?))
        }
        _ => Err(fields.wrong("amounts", AMOUNTS_REMEDY)),
    }
}

fn read_row(fields: &Fields<'_>, exponent: u8) -> Result<TableRow, CampaignError> {
    let remedy = "write how many packets hold this amount, at least 1";
    Ok(TableRow {
        amount: read_money(fields, "amount", exponent)?,
        packets: fields.integer("count", 1..=INTEGER_MAX, remedy)?,
    })
}

/// Hundredths of a percent: "12.5%" is 1250.
fn parse_share(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return None;
    }
    let hundredths =
        if part.len() == 1 { part.parse::<u32>().ok()? * 10 } else { part.parse().ok()? };
    let share = whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths)?;
    (share <= SHARE_WHOLE).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact_or_refused() {
        let check = |text: &str, expected| assert_eq!(parse_share(text), expected, "{text}");
        check("12.5%", Some(1250));
        check("12.05%", Some(1205));
        check("100%", Some(10_000));
        check("100.01%", None);
        check("12.505%", None);
        check("12.5", None);
        check(".5%", None);
        check("5.%", None);
        check("-5%", None);
    }
}
