//! Which requests are no person's: prefetches of browsers, and programs that look at links in mail and chat.
//!
//! Such a request is led to the target like any other, since scanners judge where a link leads, but tags nobody. What
//! claims to be a person's browser is believed: the list is of those that say who they are. HEAD is a machine's too.

use http::HeaderMap;

/// Headers by which browsers and their proxies say that nobody has clicked yet, and what they hold then.
const PREFETCH: [(&str, &str); 5] = [
    // Chromium, Safari; Firefox since 115.
    ("sec-purpose", "prefetch"),
    ("purpose", "prefetch"),
    ("purpose", "preview"),
    // Safari's Top Sites.
    ("x-purpose", "preview"),
    // Firefox.
    ("x-moz", "prefetch"),
];

/// What stands in the User-Agent of scanners, in lower case.
const AGENTS: [&str; 27] = [
    // Scanners of mail.
    "bingpreview",
    "safelinks",
    "microsoft office protocol discovery",
    "ms-office-exchange",
    "barracuda",
    "proofpoint",
    "mimecast",
    "fireeye",
    "forcepoint",
    "symantec",
    "trend micro",
    "cloudmark",
    "googleimageproxy",
    "google-safety",
    "yahoomailproxy",
    // Previews of chats and networks.
    "slackbot",
    "slack-imgproxy",
    "facebookexternalhit",
    "facebot",
    "twitterbot",
    "linkedinbot",
    "whatsapp",
    "telegrambot",
    "discordbot",
    "skypeuripreview",
    // Search engines.
    "googlebot",
    "bingbot",
];

/// Whether a request's headers say that no person sent it.
pub(super) fn is_machine(headers: &HeaderMap) -> bool {
    let holds = |name: &str, word: &str| {
        headers
            .get_all(name)
            .iter()
            .any(|value| value.as_bytes().to_ascii_lowercase().windows(word.len()).any(|at| at == word.as_bytes()))
    };
    PREFETCH.iter().any(|(name, word)| holds(name, word)) || AGENTS.iter().any(|agent| holds("user-agent", agent))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[track_caller]
    fn check(name: &'static str, value: &'static str, expected: bool) {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
        assert_eq!(is_machine(&headers), expected, "{name}: {value}");
    }

    #[test]
    fn machines_say_who_they_are() {
        check("sec-purpose", "prefetch;prerender", true);
        check("purpose", "Prefetch", true);
        check("x-purpose", "preview", true);
        check("x-moz", "prefetch", true);
        check("sec-purpose", "", false);
        check("user-agent", "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/534 BingPreview/1.0b", true);
        check("user-agent", "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", true);
        check("user-agent", "WhatsApp/2.23.20.0", true);
        check("user-agent", "TelegramBot (like TwitterBot)", true);
        check("user-agent", "curl/8.5.0", false);
        let chrome =
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36";
        check("user-agent", chrome, false);
    }
}
