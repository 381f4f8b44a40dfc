//! `datetime.strftime` as Python has it on glibc in the C locale, for a date without a time of day.
//!
//! The time is always midnight: a template that prints the hour would otherwise give every row its own prompt.

use jiff::civil::Date;

/// Formats `date`, at 00:00:00 and without a time zone.
///
/// Directives that glibc does not know are kept as they are, as it does.
pub(super) fn strftime(date: Date, format: &str) -> String {
    let mut out = String::with_capacity(format.len() + 16);
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        let directive = &rest[start..];
        let length = directive_length(directive);
        out.push_str(&expand(date, &directive[..length]));
        rest = &directive[length..];
    }
    out.push_str(rest);
    out
}

/// Bytes of a directive: `%`, flags, width, conversion.
fn directive_length(s: &str) -> usize {
    let mut end = 1;
    let mut conversion = false;
    for c in s[1..].chars() {
        end += c.len_utf8();
        if !matches!(c, '-' | '_' | '0'..='9' | '^' | '#') {
            conversion = true;
            break;
        }
    }
    if conversion { end } else { s.len() }
}

fn expand(date: Date, directive: &str) -> String {
    let Some(conversion) = directive.chars().next_back().filter(|_| directive.len() > 1) else {
        return directive.into();
    };
    let (mut flag, mut upper, mut swap, mut width) = (None, false, false, 0usize);
    for c in directive[1..directive.len() - conversion.len_utf8()].chars() {
        match c {
            '-' | '_' => flag = Some(c),
            '0' if width == 0 => flag = Some(c),
            '^' => upper = true,
            '#' => swap = true,
            digit => {
                width = width.saturating_mul(10).saturating_add(digit.to_digit(10).unwrap_or(0) as usize);
            }
        }
    }
    // Nothing sensible is wider; a hostile template is not to allocate gigabytes by a digit.
    width = width.min(256);
    let number = |value: i64, digits: usize, fill: char| -> String {
        let (fill, digits) = match flag {
            Some('-') => (fill, 0),
            Some('_') => (' ', digits.max(width)),
            Some(_) => ('0', digits.max(width)),
            None => (fill, digits.max(width)),
        };
        let text = value.to_string();
        let missing = digits.saturating_sub(text.len());
        fill.to_string().repeat(missing) + &text
    };
    let text = |value: String| -> String {
        let value = if upper || swap { value.to_uppercase() } else { value };
        let fill = if flag == Some('0') { "0" } else { " " };
        fill.repeat(width.saturating_sub(value.chars().count())) + &value
    };
    let (year, month, day) = (i64::from(date.year()), i64::from(date.month()), i64::from(date.day()));
    let week = date.iso_week_date();
    let weekday = i64::from(date.weekday().to_sunday_zero_offset());
    let day_of_year = i64::from(date.day_of_year());
    let name = |format: &str| text(date.strftime(format).to_string());
    match conversion {
        'a' => name("%a"),
        'A' => name("%A"),
        'b' | 'h' => name("%b"),
        'B' => name("%B"),
        'c' => text(strftime(date, "%a %b %e %H:%M:%S %Y")),
        'C' => number(year.div_euclid(100), 2, '0'),
        'd' => number(day, 2, '0'),
        'D' | 'x' => text(strftime(date, "%m/%d/%y")),
        'e' => number(day, 2, ' '),
        'f' => "000000".into(),
        'F' => text(strftime(date, "%Y-%m-%d")),
        'g' => number(i64::from(week.year()).rem_euclid(100), 2, '0'),
        'G' => number(i64::from(week.year()), 1, '0'),
        'H' | 'M' | 'S' => number(0, 2, '0'),
        'I' => number(12, 2, '0'),
        'j' => number(day_of_year, 3, '0'),
        'k' => number(0, 2, ' '),
        'l' => number(12, 2, ' '),
        'm' => number(month, 2, '0'),
        'n' => "\n".into(),
        'p' if swap => "am".into(),
        'p' => text("AM".into()),
        'P' => text("am".into()),
        'r' => text("12:00:00 AM".into()),
        'R' => text("00:00".into()),
        't' => "\t".into(),
        'T' | 'X' => text("00:00:00".into()),
        'u' => number(if weekday == 0 { 7 } else { weekday }, 1, '0'),
        'U' => number((day_of_year + 6 - weekday) / 7, 2, '0'),
        'V' => number(i64::from(week.week()), 2, '0'),
        'w' => number(weekday, 1, '0'),
        'W' => number((day_of_year + 6 - (weekday + 6) % 7) / 7, 2, '0'),
        'y' => number(year.rem_euclid(100), 2, '0'),
        'Y' => number(year, 1, '0'),
        // A Python datetime without a zone prints nothing here.
        'z' | 'Z' => String::new(),
        '%' => "%".into(),
        _ => directive.into(),
    }
}
