//! Selects the format that the client prefers, from its Accept header: RFC 9110, section 12.5.1.

use super::super::text::Format;

/// Returns the preferred format, or the classic one if the client accepts neither: text is more useful than an error.
pub fn preferred<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let ranges = accept.flat_map(|value| value.split(',')).filter_map(media_range);
    // The first of several ranges with the same weight wins.
    let best = ranges.reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(Format::Classic, |(format, _)| format)
}

/// Returns the format and the weight of a media range such as `text/plain;version=0.0.4;q=0.5`.
fn media_range(text: &str) -> Option<(Format, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    let (mut version, mut weight) = (None, 1.0);
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value.trim().trim_matches('"')),
            "q" => weight = value.trim().parse().unwrap_or(0.0),
            _ => {}
        }
    }
    let format = match (media_type.as_str(), version) {
        ("application/openmetrics-text", None | Some("1.0.0")) => Format::Openmetrics,
        ("text/plain", None | Some("0.0.4")) | ("text/*" | "*/*", _) => Format::Classic,
        _ => return None,
    };
    (weight > 0.0).then_some((format, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_what_the_client_prefers() {
        const PROMETHEUS_2_42: &str = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        const PROMETHEUS_3: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (PROMETHEUS_2_42, Format::Openmetrics),
            (PROMETHEUS_3, Format::Openmetrics),
            ("application/openmetrics-text", Format::Openmetrics),
            ("Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8", Format::Openmetrics),
            ("application/openmetrics-text;version=0.0.1", Format::Classic),
            ("application/openmetrics-text;q=0.4,text/plain;q=0.5", Format::Classic),
            ("application/openmetrics-text;q=0, */*", Format::Classic),
            ("application/openmetrics-text;q=nan", Format::Classic),
            ("text/plain, application/openmetrics-text", Format::Classic),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Format::Classic),
            ("image/png", Format::Classic),
            (";;,,=;q=x", Format::Classic),
            ("", Format::Classic),
        ] {
            assert_eq!(preferred([accept].into_iter()), format, "{accept}");
        }
        assert_eq!(preferred([].into_iter()), Format::Classic);
        let two = ["text/plain;q=0.5", "application/openmetrics-text;version=1.0.0"];
        assert_eq!(preferred(two.into_iter()), Format::Openmetrics);
    }
}
