//! The wall clock that a template's `strftime_now` shows, as an input.

/// A date and time of day without a time zone, in the proleptic Gregorian calendar.
///
/// Transformers renders the local time of the machine that renders: to reproduce a prompt, give that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// Year, 1 to 9999.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u8,
    /// Day of the month, from 1.
    pub day: u8,
    /// Hour, 0 to 23.
    pub hour: u8,
    /// Minute, 0 to 59.
    pub minute: u8,
    /// Second, 0 to 59.
    pub second: u8,
    /// Microsecond, 0 to 999 999.
    pub microsecond: u32,
}

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl CivilTime {
    /// UTC of a moment, in seconds and microseconds after the Unix epoch; `None` beyond the year 9999.
    #[must_use]
    pub fn from_unix_utc(seconds: u64, microsecond: u32) -> Option<Self> {
        let days = i64::try_from(seconds / 86_400).ok()?;
        let of_day = u32::try_from(seconds % 86_400).ok()?;
        // Civil date from a day count: eras of 400 years, years that begin in March.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Some(Self {
            year: u16::try_from(year).ok().filter(|year| *year <= 9999)?,
            month: u8::try_from(month).ok()?,
            day: u8::try_from(day_of_year - (153 * shifted_month + 2) / 5 + 1).ok()?,
            hour: u8::try_from(of_day / 3600).ok()?,
            minute: u8::try_from(of_day / 60 % 60).ok()?,
            second: u8::try_from(of_day % 60).ok()?,
            microsecond,
        })
    }

    /// Whether every field is in its range.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        (1..=9999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=self.days_in_month()).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
            && self.microsecond < 1_000_000
    }

    fn leap(&self) -> bool {
        self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400))
    }

    fn days_in_month(&self) -> u8 {
        match self.month {
            2 => 28 + u8::from(self.leap()),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    /// Day of the year, from 0.
    fn day_of_year(&self) -> u32 {
        let before = (1..self.month).map(|month| u32::from(Self { month, ..*self }.days_in_month())).sum::<u32>();
        before + u32::from(self.day) - 1
    }

    /// Day of the week, 0 = Sunday.
    fn weekday(&self) -> u32 {
        let years = u32::from(self.year) - 1;
        // 1 January of year 1 is a Monday.
        (1 + years * 365 + years / 4 - years / 100 + years / 400 + self.day_of_year()) % 7
    }

    /// Year and week of ISO 8601.
    fn iso_week(&self) -> (u32, u32) {
        let monday_based = (self.weekday() + 6) % 7;
        let week = (self.day_of_year() + 10 - monday_based) / 7;
        let long = |year: u32| {
            let p = |y: u32| (y + y / 4 - y / 100 + y / 400) % 7;
            p(year) == 4 || p(year.saturating_sub(1)) == 3
        };
        let year = u32::from(self.year);
        match week {
            0 => (year - 1, 52 + u32::from(long(year - 1))),
            53 if !long(year) => (year + 1, 1),
            _ => (year, week),
        }
    }

    /// As Python's `datetime.strftime` in the C locale.
    ///
    /// # Errors
    /// A directive that is not known, by its name.
    pub fn strftime(&self, format: &str) -> Result<String, String> {
        let mut text = String::with_capacity(format.len() + 16);
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let directive = chars.next().ok_or_else(|| "the time format ends in a single %".to_owned())?;
            let (plain, directive) = match directive {
                '-' => (true, chars.next().ok_or_else(|| "the time format ends in %-".to_owned())?),
                other => (false, other),
            };
            let padded = self.directive(directive).ok_or_else(|| {
                format!("the time format directive %{}{directive} is not supported", if plain { "-" } else { "" })
            })?;
            text.push_str(if plain { without_padding(&padded) } else { &padded });
        }
        Ok(text)
    }

    fn directive(&self, directive: char) -> Option<String> {
        let hour12 = if self.hour.is_multiple_of(12) { 12 } else { self.hour % 12 };
        let weekday = self.weekday();
        let month = MONTHS.get(usize::from(self.month) - 1)?;
        let day_name = WEEKDAYS.get(weekday as usize)?;
        let half = if self.hour < 12 { "AM" } else { "PM" };
        Some(match directive {
            'a' => day_name[..3].into(),
            'A' => (*day_name).into(),
            'b' | 'h' => month[..3].into(),
            'B' => (*month).into(),
            'c' => self.strftime("%a %b %e %H:%M:%S %Y").ok()?,
            'C' => format!("{:02}", self.year / 100),
            'd' => format!("{:02}", self.day),
            'D' | 'x' => self.strftime("%m/%d/%y").ok()?,
            'e' => format!("{:2}", self.day),
            'f' => format!("{:06}", self.microsecond),
            'F' => self.strftime("%Y-%m-%d").ok()?,
            'G' => self.iso_week().0.to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'j' => format!("{:03}", self.day_of_year() + 1),
            'k' => format!("{:2}", self.hour),
            'l' => format!("{hour12:2}"),
            'm' => format!("{:02}", self.month),
            'M' => format!("{:02}", self.minute),
            'n' => "\n".into(),
            'p' => half.into(),
            'P' => half.to_lowercase(),
            'r' => self.strftime("%I:%M:%S %p").ok()?,
            'R' => self.strftime("%H:%M").ok()?,
            'S' => format!("{:02}", self.second),
            't' => "\t".into(),
            'T' | 'X' => self.strftime("%H:%M:%S").ok()?,
            'u' => (if weekday == 0 { 7 } else { weekday }).to_string(),
            'U' => format!("{:02}", (self.day_of_year() + 7 - weekday) / 7),
            'V' => format!("{:02}", self.iso_week().1),
            'w' => weekday.to_string(),
            'W' => format!("{:02}", (self.day_of_year() + 7 - (weekday + 6) % 7) / 7),
            'y' => format!("{:02}", self.year % 100),
            'Y' => self.year.to_string(),
            // A naive datetime has neither offset nor zone.
            'z' | 'Z' => String::new(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

/// glibc's `%-d`: no padding, the last digit stays.
fn without_padding(text: &str) -> &str {
    let trimmed = text.trim_start_matches(['0', ' ']);
    if trimmed.is_empty() { &text[text.len() - 1..] } else { trimmed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_python() {
        let expected = [
            (0, "1970-01-01 00:00:00 Thu 001 00 00 01 1970 4 4 1"),
            (951782400, "2000-02-29 00:00:00 Tue 060 09 09 09 2000 2 2 29"),
            (1104537599, "2004-12-31 23:59:59 Fri 366 52 52 53 2004 5 5 31"),
            (1230768000, "2009-01-01 00:00:00 Thu 001 00 00 01 2009 4 4 1"),
            (1451606400, "2016-01-01 00:00:00 Fri 001 00 00 53 2015 5 5 1"),
            (1609459199, "2020-12-31 23:59:59 Thu 366 52 52 53 2020 4 4 31"),
            (1772874304, "2026-03-07 09:05:04 Sat 066 09 09 10 2026 6 6 7"),
            (4107542400, "2100-03-01 00:00:00 Mon 060 09 09 09 2100 1 1 1"),
            (253402300799, "9999-12-31 23:59:59 Fri 365 52 52 52 9999 5 5 31"),
        ];
        for (seconds, text) in expected {
            let time = CivilTime::from_unix_utc(seconds, 0).unwrap();
            assert!(time.is_valid());
            assert_eq!(time.strftime("%Y-%m-%d %H:%M:%S %a %j %U %W %V %G %u %w %-d").unwrap(), text);
        }
        assert_eq!(CivilTime::from_unix_utc(253402300800, 0), None);
    }

    #[test]
    fn unknown_directives_and_impossible_times_are_refused() {
        let time = CivilTime::from_unix_utc(0, 0).unwrap();
        assert!(time.strftime("%Q").unwrap_err().contains("%Q"));
        assert!(time.strftime("a %").is_err());
        assert!(!CivilTime { month: 2, day: 29, ..time }.is_valid());
        assert!(CivilTime { year: 2024, month: 2, day: 29, ..time }.is_valid());
    }
}
