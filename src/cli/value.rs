//! The value syntax of flags: what Go's pflag package accepts, because manifests written for it must keep working.
//!
//! Only syntax is checked here. Whether a value makes sense (a range, a family) is the business of [`crate::config`].

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A type that a flag's text can become.
pub trait FlagValue: Sized {
    /// The syntax, for help and documents.
    const SYNTAX: Syntax;
    /// True where the value must not be repeated in messages.
    const SECRET: bool = false;

    /// Read all occurrences of a flag, in order; never empty. Where the syntax is not a list, the last one counts.
    ///
    /// # Errors
    /// The reason, in words that follow "invalid value".
    fn parse(occurrences: &[String]) -> Result<Self, String>;
}

/// How a flag's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// `--flag`, `--flag=true`, `--flag=false`; never `--flag false`.
    Bool,
    /// `300ms`, `5s`, `1m30s`, `2h`.
    Duration,
    /// Any text.
    Text,
    /// A whole number that fits this many bits.
    Number(u32),
    /// A comma-separated list of texts; the flag may be repeated.
    List,
    /// A comma-separated list of whole numbers, no spaces; the flag may be repeated.
    Numbers,
    /// A comma-separated list of addresses; the flag may be repeated.
    Addresses,
    /// A file or folder name.
    Path,
}

impl Syntax {
    /// One word for help and documents.
    pub fn word(self) -> &'static str {
        match self {
            Syntax::Bool => "BOOL",
            Syntax::Duration => "DURATION",
            Syntax::Text => "TEXT",
            Syntax::Number(_) => "NUMBER",
            Syntax::List => "LIST",
            Syntax::Numbers => "NUMBERS",
            Syntax::Addresses => "IPS",
            Syntax::Path => "PATH",
        }
    }

    /// True where the flag may be given several times and each use adds to the list.
    pub fn is_list(self) -> bool {
        matches!(self, Syntax::List | Syntax::Numbers | Syntax::Addresses)
    }
}

/// The last occurrence: what counts where a flag holds one value.
fn last(occurrences: &[String]) -> &str {
    occurrences.last().map_or("", String::as_str)
}

impl FlagValue for bool {
    const SYNTAX: Syntax = Syntax::Bool;

    fn parse(occurrences: &[String]) -> Result<bool, String> {
        match last(occurrences) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err("expected true or false (also 1, 0, t, f)".to_owned()),
        }
    }
}

impl FlagValue for String {
    const SYNTAX: Syntax = Syntax::Text;

    fn parse(occurrences: &[String]) -> Result<String, String> {
        Ok(last(occurrences).to_owned())
    }
}

impl FlagValue for PathBuf {
    const SYNTAX: Syntax = Syntax::Path;

    fn parse(occurrences: &[String]) -> Result<PathBuf, String> {
        Ok(PathBuf::from(last(occurrences)))
    }
}

/// The unsigned numbers of pflag: base by prefix (`0x`, `0b`, `0o`, `0`), limited by the type's width.
macro_rules! number {
    ($($type:ty),*) => { $(
        impl FlagValue for $type {
            const SYNTAX: Syntax = Syntax::Number(<$type>::BITS);

            fn parse(occurrences: &[String]) -> Result<$type, String> {
                parse_number(last(occurrences))
                    .and_then(|number| <$type>::try_from(number).ok())
                    .ok_or_else(|| format!("expected a whole number from 0 to {}", <$type>::MAX))
            }
        }
    )* };
}
number!(u8, u16, u32, u64);

/// A number in Go's notation with the base told by its prefix.
fn parse_number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.strip_prefix('0') {
        None | Some("") => (lower.as_str(), 10),
        Some(rest) => match rest.split_at_checked(1) {
            Some(("x", digits)) => (digits, 16),
            Some(("b", digits)) => (digits, 2),
            Some(("o", digits)) => (digits, 8),
            _ => (rest, 8),
        },
    };
    if digits.starts_with('+') { None } else { u64::from_str_radix(digits, base).ok() }
}

impl FlagValue for Vec<String> {
    const SYNTAX: Syntax = Syntax::List;

    fn parse(occurrences: &[String]) -> Result<Vec<String>, String> {
        let mut list = Vec::new();
        for occurrence in occurrences {
            list.extend(split_csv(occurrence)?);
        }
        Ok(list)
    }
}

impl FlagValue for Vec<u64> {
    const SYNTAX: Syntax = Syntax::Numbers;

    fn parse(occurrences: &[String]) -> Result<Vec<u64>, String> {
        let read = |text: &str| {
            Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok())
        };
        occurrences
            .iter()
            .filter(|occurrence| !occurrence.is_empty())
            .flat_map(|occurrence| occurrence.split(','))
            .map(|text| read(text).ok_or_else(|| format!("{text:?} is not a whole number (write 64512,64513)")))
            .collect()
    }
}

impl FlagValue for Vec<IpAddr> {
    const SYNTAX: Syntax = Syntax::Addresses;

    fn parse(occurrences: &[String]) -> Result<Vec<IpAddr>, String> {
        let mut list = Vec::new();
        for occurrence in occurrences {
            let bare: String = occurrence.chars().filter(|letter| !matches!(letter, '"' | '\'' | '`')).collect();
            for text in split_csv(&bare)? {
                let address = text.trim();
                list.push(address.parse().map_err(|_| format!("{address:?} is not an IP address"))?);
            }
        }
        Ok(list)
    }
}

/// A text that is never shown: neither its `Debug` nor its `Display` form tells what it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hide a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that must use it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

impl FlagValue for Vec<Secret> {
    const SYNTAX: Syntax = Syntax::List;
    const SECRET: bool = true;

    fn parse(occurrences: &[String]) -> Result<Vec<Secret>, String> {
        Ok(Vec::<String>::parse(occurrences)?.into_iter().map(Secret).collect())
    }
}

/// One line of comma-separated values (RFC 4180: a field in double quotes may hold commas, `""` is a quote).
fn split_csv(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut letters = line.chars().peekable();
    let mut quoted = false;
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => return Err("a double quote inside a list entry; quote the whole entry or none of it".to_owned()),
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    if quoted {
        return Err("a double quote is not closed".to_owned());
    }
    fields.push(field);
    Ok(fields)
}

/// A duration as Go writes it, in nanoseconds; may be negative until it was validated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub i64);

impl GoDuration {
    /// The same as a [`Duration`], or `None` where it is negative.
    pub fn to_duration(self) -> Option<Duration> {
        u64::try_from(self.0).ok().map(Duration::from_nanos)
    }
}

impl FlagValue for GoDuration {
    const SYNTAX: Syntax = Syntax::Duration;

    fn parse(occurrences: &[String]) -> Result<GoDuration, String> {
        parse_duration(last(occurrences))
            .map(GoDuration)
            .ok_or_else(|| "expected a duration with units, such as 300ms, 5s, 1m30s or 2h".to_owned())
    }
}

/// The units of a Go duration with their length in nanoseconds; longer names first where one begins another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Nanoseconds of a duration text: an optional sign, then numbers with units; `0` alone needs no unit.
fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_length = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (number, after) = rest.split_at_checked(number_length)?;
        let unit_length = after.find(|letter: char| letter.is_ascii_digit() || letter == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(unit_length)?;
        let scale = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)?;
        total = total.checked_add(scaled(number, scale)?)?;
        rest = next;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { total.wrapping_neg() } else { total })
}

/// A decimal number with an optional fraction, times `scale`; digits below one nanosecond are dropped.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.chars() {
        place = place.checked_div(10)?;
        nanoseconds = nanoseconds.checked_add(u64::from(digit.to_digit(10)?).checked_mul(place)?)?;
    }
    Some(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<T: FlagValue>(texts: &[&str]) -> Result<T, String> {
        T::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let table: [(&str, Option<i64>); 14] = [
            ("5s", Some(5_000_000_000)),
            ("1m30s", Some(90_000_000_000)),
            ("2h", Some(7_200_000_000_000)),
            ("300ms", Some(300_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5m", Some(30_000_000_000)),
            ("0", Some(0)),
            ("-3s", Some(-3_000_000_000)),
            ("7µs", Some(7_000)),
            ("5", None),
            ("", None),
            ("s", None),
            ("1d", None),
            ("9999999999h", None),
        ];
        for (text, nanoseconds) in table {
            assert_eq!(parse::<GoDuration>(&[text]).ok(), nanoseconds.map(GoDuration), "{text:?}");
        }
    }

    #[test]
    fn numbers_take_a_base_prefix_and_are_bounded_by_their_width() {
        assert_eq!(parse::<u16>(&["20244"]), Ok(20244));
        assert_eq!(parse::<u16>(&["0x10"]), Ok(16));
        assert_eq!(parse::<u16>(&["010"]), Ok(8));
        assert_eq!(parse::<u16>(&["0"]), Ok(0));
        for bad in ["65536", "-1", "+1", "1.0", "", "0x", "ten"] {
            assert!(parse::<u16>(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn secrets_do_not_show() {
        let secrets: Vec<Secret> = parse(&["aHVzaA==,c2VjcmV0"]).unwrap();
        assert_eq!(secrets.last().map(Secret::reveal), Some("c2VjcmV0"));
        assert_eq!(format!("{secrets:?}"), "[<redacted>, <redacted>]");
        assert_eq!(Secret::new("x").to_string(), "<redacted>");
    }

    #[test]
    fn lists_are_csv_and_repeated_flags_add_up() {
        assert_eq!(parse::<Vec<String>>(&["a,b", "\"c,d\""]), Ok(vec!["a".into(), "b".into(), "c,d".into()]));
        assert_eq!(parse::<Vec<String>>(&[""]), Ok(vec![]));
        assert_eq!(parse::<Vec<String>>(&[","]), Ok(vec![String::new(), String::new()]));
        assert!(parse::<Vec<String>>(&["a\"b"]).is_err());
        assert!(parse::<Vec<String>>(&["\"a"]).is_err());
        assert_eq!(parse::<Vec<u64>>(&["1,2", "3"]), Ok(vec![1, 2, 3]));
        assert!(parse::<Vec<u64>>(&["1, 2"]).is_err());
        let two: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(parse::<Vec<IpAddr>>(&["\"10.0.0.1, fd00::1\""]), Ok(two));
        assert!(parse::<Vec<IpAddr>>(&["10.0.0.1,peer"]).is_err());
    }
}
