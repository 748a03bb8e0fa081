//! The activation URL of a webhook, in which `__name__` stands for the value of the parameter `name`.
//!
//! A template is checked when the webhook is written and filled in at each attempt. What [`UrlTemplate::render`]
//! gives out is byte for byte what is sent: the literal parts are brought into the URL parser's own spelling when the
//! template is parsed, and values are encoded so that the parser has nothing left to change.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};
use url::{Position, Url};

/// Longest template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 4_096;
/// Longest URL that is sent, with all values in it, in bytes.
pub const MAX_RENDERED_BYTES: usize = 8_000;
/// Most errors reported of one template.
const MAX_ERRORS: usize = 20;
/// Most names of placeholders that an error tells.
const MAX_NAMES_TOLD: usize = 10;
/// Longest name that an error tells or proposes, in bytes.
const MAX_TOLD_BYTES: usize = 63;
/// How many letters may be wrong, missing or too many in a name that is taken for another.
const MAX_SLIPS: usize = 2;
/// How often a path segment is percent-decoded in search of dots: once as the receiver does, and thrice more for the
/// proxies and frameworks that decode what was decoded already.
const MAX_DECODINGS: usize = 4;
/// Stands on both sides of a placeholder's name.
const MARK: &str = "__";
/// All but the unreserved characters of RFC 3986, 2.3.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with placeholders in its path and query.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    source: String,
    origin: Origin,
    /// Scheme, host and port as sent, without the slash that follows.
    base: String,
    pieces: Vec<Piece>,
}

/// Where requests go: what caps, rates and breakers hang on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// How requests go there.
    pub scheme: Scheme,
    /// In the URL parser's spelling: a name in lower case and Punycode, an IPv4 address with dots, an IPv6 address in
    /// brackets.
    pub host: String,
    /// 1 to 65535; the scheme's own if the URL names none.
    pub port: u16,
}

/// How requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

/// A URL with its values in place, at most [`MAX_RENDERED_BYTES`] long.
#[derive(Clone, PartialEq, Eq)]
pub struct RenderedUrl {
    text: String,
    path_start: usize,
}

/// One thing wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset}: {problem}")]
pub struct TemplateError {
    /// Where it stands, in bytes from the start of the template.
    pub offset: usize,
    /// What it is.
    pub problem: TemplateProblem,
}

/// What can be wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateProblem {
    /// Longer than [`MAX_TEMPLATE_BYTES`].
    #[error("must be at most {MAX_TEMPLATE_BYTES} bytes; has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Neither http nor https.
    #[error("must start with https:// or http://")]
    Scheme,
    /// A user name or password.
    #[error("must not have user name and password in it; send an Authorization header instead")]
    UserInfo,
    /// A host or port that the URL parser refuses.
    #[error("must have a valid host and port ({reason})")]
    Host {
        /// What the URL parser says.
        reason: String,
    },
    /// Port 0.
    #[error("must have a port from 1 to 65535")]
    Port,
    /// A fragment.
    #[error("must not have a fragment (#...), which is never sent; a literal # is written %23")]
    Fragment,
    /// White space, a control character or a backslash.
    #[error("must not have white space, control characters or backslashes; they are written percent-encoded")]
    Character,
    /// A `%` that encodes nothing.
    #[error("must have two hexadecimal digits after %; a literal % is written %25")]
    PercentEncoding,
    /// A path segment that would be resolved away.
    #[error("must not have a path segment . or .. (percent-encoded ones too)")]
    DotSegment,
    /// A placeholder outside path and query.
    #[error("the placeholder {name:?} must not stand outside path and query")]
    Misplaced {
        /// Its name.
        name: String,
    },
    /// A placeholder that nothing fills.
    #[error("there is no value called {name:?} to fill the placeholder{hint}")]
    Unknown {
        /// Its name.
        name: String,
        /// What could stand there.
        hint: Hint,
    },
    /// Between two marks, but no name.
    #[error(
        "{name:?} can't be the name of a placeholder, which is letters and digits with single _ or - inside; \
         a literal _ beside a placeholder is written %5F{hint}"
    )]
    Name {
        /// Its name.
        name: String,
        /// What could stand there.
        hint: Hint,
    },
    /// An opening mark alone.
    #[error("the placeholder that starts here has no end; a literal __ is written %5F%5F")]
    Unterminated,
}

/// What could stand in place of a placeholder that nothing fills.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// The name that was probably meant.
    pub meant: Option<String>,
    /// The first of the names that there are, at most [`MAX_NAMES_TOLD`], and how many more there are.
    pub names: (Vec<String>, usize),
}

/// Why a URL or a request can't be made of a delivery. All are final: the same values would fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The template was changed after the trigger was accepted, and names what the delivery doesn't carry.
    #[error("the URL has the placeholder {name:?}, but the delivery has no parameter of that name")]
    MissingValue {
        /// Its name.
        name: String,
    },
    /// The values would lead to another path than the template's.
    #[error("a value would make a path segment . or .. in the URL")]
    DotSegment,
    /// The URL is over [`MAX_RENDERED_BYTES`].
    #[error("the URL would be longer than {MAX_RENDERED_BYTES} bytes")]
    UrlTooLarge,
    /// The body is over [`super::request::MAX_BODY_BYTES`].
    #[error("the body would be longer than {} bytes", super::request::MAX_BODY_BYTES)]
    BodyTooLarge,
}

impl UrlTemplate {
    /// Reads a template that somebody writes. `names` are those of the values that will be there to fill placeholders.
    ///
    /// # Errors
    ///
    /// All that is wrong with it, in the order of the text (the first 20).
    pub fn parse(source: &str, names: &[&str]) -> Result<Self, Vec<TemplateError>> {
        Self::read(source, Some(names))
    }

    /// Reads a template that was checked when it was written, by the rules of then: any name and any host will do.
    ///
    /// # Errors
    ///
    /// As [`UrlTemplate::parse`].
    pub fn stored(source: &str) -> Result<Self, Vec<TemplateError>> {
        Self::read(source, None)
    }

    fn read(source: &str, names: Option<&[&str]>) -> Result<Self, Vec<TemplateError>> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(vec![error(0, TemplateProblem::TooLong { bytes: source.len() })]);
        }
        let layout = Layout::of(source);
        let mut errors = Vec::new();
        check_scheme_and_authority(source, &layout, &mut errors);
        check_characters(source, &layout, &mut errors);
        check_dot_segments(source, &layout, &mut errors);
        check_placeholders(source, &layout, names, &mut errors);
        let parsed = parse_url(source, &layout, &mut errors);
        if let (Some(_), Some((url, _))) = (names, &parsed) {
            check_labels(url, &layout, &mut errors);
        }
        match parsed {
            Some((url, origin)) if errors.is_empty() => Ok(Self {
                source: source.to_owned(),
                origin,
                base: url[..Position::BeforePath].to_owned(),
                pieces: pieces(&url[Position::BeforePath..]).map_err(|error| vec![error])?,
            }),
            _ => {
                errors.sort_by_key(|error| error.offset);
                errors.truncate(MAX_ERRORS);
                Err(errors)
            }
        }
    }

    /// The text that the template was read from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Where requests go.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The names of the placeholders in the order of the text; one that stands twice comes twice.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// Fills the placeholders with values, percent-encoded but for the unreserved characters of RFC 3986. `get` gives
    /// a parameter's value: empty for an empty one, `None` if there is no parameter of that name.
    ///
    /// # Errors
    ///
    /// If a value is missing, makes a dot segment, or makes the URL too long.
    pub fn render<'v>(&self, get: &dyn Fn(&str) -> Option<&'v str>) -> Result<RenderedUrl, RenderError> {
        let mut url = RenderedUrl { text: self.base.clone(), path_start: self.base.len() };
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => url.text.push_str(literal),
                Piece::Placeholder(name) => {
                    let value = get(name).ok_or_else(|| RenderError::MissingValue { name: name.clone() })?;
                    // Encoding never shortens: a huge value need not be encoded to know.
                    if value.len() > MAX_RENDERED_BYTES {
                        return Err(RenderError::UrlTooLarge);
                    }
                    url.text.extend(utf8_percent_encode(value, ENCODED));
                }
            }
            url.check_length()?;
        }
        if url.path().split('/').any(is_dot_segment) {
            return Err(RenderError::DotSegment);
        }
        Ok(url)
    }
}

impl RenderedUrl {
    /// The URL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL.
    #[must_use]
    pub fn into_string(self) -> String {
        self.text
    }

    /// The path, `/` at least.
    #[must_use]
    pub fn path(&self) -> &str {
        self.tail().split_once('?').map_or(self.tail(), |(path, _)| path)
    }

    /// The query without its `?`; `None` if there is no `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.tail().split_once('?').map(|(_, query)| query)
    }

    /// Adds already encoded `name=value` pairs to the query; nothing for an empty text.
    ///
    /// # Errors
    ///
    /// [`RenderError::UrlTooLarge`].
    pub fn append_query(&mut self, pairs: &str) -> Result<(), RenderError> {
        if pairs.is_empty() {
            return Ok(());
        }
        let separator = match self.query() {
            None => "?",
            Some(query) if query.is_empty() || query.ends_with('&') => "",
            Some(_) => "&",
        };
        self.text.push_str(separator);
        self.text.push_str(pairs);
        self.check_length()
    }

    fn tail(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    const fn check_length(&self) -> Result<(), RenderError> {
        if self.text.len() > MAX_RENDERED_BYTES { Err(RenderError::UrlTooLarge) } else { Ok(()) }
    }
}

impl Scheme {
    /// As URLs start with it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The origin with its port always written: `https://example.com:443`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

/// The origin alone: many services keep a secret in the path or the query.
impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlTemplate({}, {} bytes)", self.origin, self.source.len())
    }
}

/// The length alone: the URL holds personal data.
impl fmt::Debug for RenderedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RenderedUrl({} bytes)", self.text.len())
    }
}

/// A part of path and query.
#[derive(Clone, PartialEq, Eq)]
enum Piece {
    /// Sent as it stands.
    Literal(String),
    /// The name of the parameter whose value is put here.
    Placeholder(String),
}

/// Where the parts of a template stand, whatever is in them.
struct Layout {
    authority: Range<usize>,
    /// From the slash, if there is one, to the `?` or the end.
    path: Range<usize>,
}

impl Layout {
    fn of(source: &str) -> Self {
        let authority_start = source.find("://").map_or(0, |at| at + 3);
        let path_start = find_from(source, authority_start, &['/', '\\', '?', '#']);
        let path_end = find_from(source, path_start, &['?', '#']);
        Self { authority: authority_start..path_start, path: path_start..path_end }
    }
}

/// The next token of a template, read left to right.
enum Token<'a> {
    Literal(&'a str),
    Placeholder(&'a str),
    /// Between two marks, but no name.
    BadName(&'a str),
    Unterminated,
}

/// Cuts a text into literals and placeholders, each with its offset.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Iterator for Scanner<'a> {
    type Item = (usize, Token<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.at;
        let rest = self.text.get(at..).filter(|rest| !rest.is_empty())?;
        let (token, len) = if let Some(body) = rest.strip_prefix(MARK) {
            let (token, len) = read_placeholder(body);
            (token, MARK.len() + len)
        } else {
            let literal = rest.split_once(MARK).map_or(rest, |(literal, _)| literal);
            (Token::Literal(literal), literal.len())
        };
        self.at += len;
        Some((at, token))
    }
}

/// Reads what follows an opening mark; also how many bytes of it belong to the token.
fn read_placeholder(body: &str) -> (Token<'_>, usize) {
    let (name, rest) = body.split_at(name_len(body));
    if !name.is_empty() && rest.starts_with(MARK) {
        return (Token::Placeholder(name), name.len() + MARK.len());
    }
    // What was meant can't be told. A placeholder doesn't span a delimiter of the URL, so that one error isn't taken
    // for several.
    let end = find_from(body, 0, &['/', '?', '#', '&', '=']);
    let within = body.get(..end).unwrap_or(body);
    match within.split_once(MARK) {
        Some((name, _)) => (Token::BadName(name), name.len() + MARK.len()),
        None => (Token::Unterminated, end),
    }
}

/// How many bytes at the start of the text are a placeholder's name: letters and digits with single `_` or `-` inside.
fn name_len(text: &str) -> usize {
    let mut len = 0;
    let mut after_separator = true;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'_' | b'-' if !after_separator => after_separator = true,
            _ if byte.is_ascii_alphanumeric() => {
                after_separator = false;
                len = at + 1;
            }
            _ => break,
        }
    }
    len
}

fn pieces(tail: &str) -> Result<Vec<Piece>, TemplateError> {
    Scanner { text: tail, at: 0 }
        .map(|(at, token)| match token {
            Token::Literal(text) => Ok(Piece::Literal(text.to_owned())),
            Token::Placeholder(name) => Ok(Piece::Placeholder(name.to_owned())),
            Token::BadName(name) => {
                Err(error(at, TemplateProblem::Name { name: name.to_owned(), hint: Hint::default() }))
            }
            Token::Unterminated => Err(error(at, TemplateProblem::Unterminated)),
        })
        .collect()
}

fn check_scheme_and_authority(source: &str, layout: &Layout, errors: &mut Vec<TemplateError>) {
    let scheme = source.get(..layout.authority.start).unwrap_or_default();
    if !["http://", "https://"].iter().any(|allowed| scheme.eq_ignore_ascii_case(allowed)) {
        errors.push(error(0, TemplateProblem::Scheme));
    }
    if source.get(layout.authority.clone()).is_some_and(|authority| authority.contains('@')) {
        errors.push(error(layout.authority.start, TemplateProblem::UserInfo));
    }
}

fn check_characters(source: &str, layout: &Layout, errors: &mut Vec<TemplateError>) {
    // What is wrong with a name is told of the name.
    let bad_names: Vec<Range<usize>> = Scanner { text: source, at: 0 }
        .filter_map(|(at, token)| match token {
            Token::BadName(name) => Some(at + MARK.len()..at + MARK.len() + name.len()),
            _ => None,
        })
        .collect();
    for (at, c) in source.char_indices().filter(|(at, _)| !bad_names.iter().any(|name| name.contains(at))) {
        if c.is_whitespace() || c.is_control() || c == '\\' {
            errors.push(error(at, TemplateProblem::Character));
        }
        if c == '%' && at >= layout.path.start {
            let digits = source.as_bytes().get(at + 1..at + 3);
            if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                errors.push(error(at, TemplateProblem::PercentEncoding));
            }
        }
    }
    if let Some(at) = source.find('#') {
        errors.push(error(at, TemplateProblem::Fragment));
    }
}

/// Literal dot segments would be resolved by the URL parser, and a placeholder before `..` with them.
fn check_dot_segments(source: &str, layout: &Layout, errors: &mut Vec<TemplateError>) {
    let mut at = layout.path.start;
    for segment in source.get(layout.path.clone()).unwrap_or_default().split('/') {
        if is_dot_segment(segment) {
            errors.push(error(at, TemplateProblem::DotSegment));
        }
        at += segment.len() + 1;
    }
}

fn check_placeholders(source: &str, layout: &Layout, names: Option<&[&str]>, errors: &mut Vec<TemplateError>) {
    let fragment_start = source.find('#').unwrap_or(source.len());
    for (at, token) in (Scanner { text: source, at: 0 }) {
        let problem = match token {
            Token::Literal(_) => continue,
            Token::Placeholder(name) if at < layout.path.start || at > fragment_start => {
                TemplateProblem::Misplaced { name: name.to_owned() }
            }
            Token::Placeholder(name) if names.is_none_or(|names| names.contains(&name)) => continue,
            Token::Placeholder(name) => {
                TemplateProblem::Unknown { name: name.to_owned(), hint: Hint::of(name, names.unwrap_or_default()) }
            }
            Token::BadName(name) => {
                TemplateProblem::Name { name: name.to_owned(), hint: Hint::of(name, names.unwrap_or_default()) }
            }
            Token::Unterminated => TemplateProblem::Unterminated,
        };
        errors.push(error(at, problem));
    }
}

impl Hint {
    fn of(name: &str, names: &[&str]) -> Self {
        let can_stand = |name: &&&str| name.len() <= MAX_TOLD_BYTES && name_len(name) == name.len();
        let mut told: Vec<&str> = names.iter().filter(can_stand).copied().collect();
        let more = told.len().saturating_sub(MAX_NAMES_TOLD);
        let meant = told.iter().filter_map(|known| Some((slips(name, known)?, *known))).min();
        told.truncate(MAX_NAMES_TOLD);
        let names = (told.into_iter().map(str::to_owned).collect(), more);
        Self { meant: meant.map(|(_, known)| known.to_owned()), names }
    }
}

/// How far a name is from another; `None` if it can't be taken for it. Case and all but letters and digits don't count.
fn slips(name: &str, known: &str) -> Option<usize> {
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    if name.len() > 2 * MAX_TOLD_BYTES {
        return None;
    }
    let (name, known) = (letters(name), letters(known));
    let slips = strsim::osa_distance(&name, &known);
    // A short name with two slips is another name.
    (slips == 0 || slips <= MAX_SLIPS && 2 * slips < known.len()).then_some(slips)
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(meant) = &self.meant {
            write!(f, "; did you mean `__{meant}__`?")?;
        }
        let (names, more) = &self.names;
        match (names.is_empty(), more) {
            (true, _) => Ok(()),
            (false, 0) => write!(f, " (there are: {})", names.join(", ")),
            (false, more) => write!(f, " (there are: {}, and {more} more)", names.join(", ")),
        }
    }
}

/// A host of dots alone, or with an empty part between two, is no name in DNS; one dot at the end is the root.
fn check_labels(url: &Url, layout: &Layout, errors: &mut Vec<TemplateError>) {
    let Some(url::Host::Domain(host)) = url.host() else { return };
    if host.strip_suffix('.').unwrap_or(host).split('.').any(str::is_empty) {
        let reason = "an empty part between dots".to_owned();
        errors.push(error(layout.authority.start, TemplateProblem::Host { reason }));
    }
}

/// Lets the URL parser judge host and port, unless something is wrong there already.
fn parse_url(source: &str, layout: &Layout, errors: &mut Vec<TemplateError>) -> Option<(Url, Origin)> {
    let is_wrong = |error: &TemplateError| error.offset < layout.path.start || error.problem == TemplateProblem::Scheme;
    if errors.iter().any(is_wrong) {
        return None;
    }
    let at = layout.authority.start;
    if layout.authority.is_empty() {
        // The parser would take the first path segment for the host.
        errors.push(error(at, TemplateProblem::Host { reason: "empty host".to_owned() }));
        return None;
    }
    let url = match Url::parse(source) {
        Ok(url) => url,
        Err(reason) => {
            errors.push(error(at, TemplateProblem::Host { reason: reason.to_string() }));
            return None;
        }
    };
    let scheme = if url.scheme() == "https" { Scheme::Https } else { Scheme::Http };
    let (host, port) = (url.host_str()?.to_owned(), url.port_or_known_default()?);
    if port == 0 {
        errors.push(error(at, TemplateProblem::Port));
        return None;
    }
    Some((url, Origin { scheme, host, port }))
}

/// Whether a receiver could take the segment for `.` or `..`, or find one inside when it decodes `%2F` before it
/// resolves dots, as some do.
fn is_dot_segment(segment: &str) -> bool {
    let mut bytes = Cow::Borrowed(segment.as_bytes());
    for _ in 0..MAX_DECODINGS {
        if has_dot_part(&bytes) {
            return true;
        }
        if !bytes.contains(&b'%') {
            return false;
        }
        bytes = Cow::Owned(percent_decode(&bytes).collect());
    }
    has_dot_part(&bytes)
}

fn has_dot_part(bytes: &[u8]) -> bool {
    bytes.split(|byte| matches!(byte, b'/' | b'\\')).any(|part| matches!(part, b"." | b".."))
}

/// Where one of the characters stands at or after `start`, or the end of the text.
fn find_from(text: &str, start: usize, chars: &[char]) -> usize {
    text.get(start..).and_then(|rest| rest.find(chars)).map_or(text.len(), |at| start + at)
}

const fn error(offset: usize, problem: TemplateProblem) -> TemplateError {
    TemplateError { offset, problem }
}

#[cfg(test)]
mod tests;
