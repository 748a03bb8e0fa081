//! The bounds that hold before the parser sees a text, since it recurses. Reads tokens as the CEL lexer does, and refuses
//! what that lexer would recover from, so that both always agree on what is inside a string.

use super::{ConditionProblem, MAX_NESTING, MAX_TOKENS};

type Found = (usize, ConditionProblem);

/// # Errors
///
/// What is wrong, and at which byte.
pub(super) fn scan(source: &str) -> Result<(), Found> {
    let mut rest = Rest { text: source, at: 0 };
    let (mut tokens, mut ternaries) = (0_usize, 0_usize);
    let mut open: Vec<(usize, char)> = Vec::new();
    while let Some(c) = rest.peek() {
        let start = rest.at;
        match c {
            ' ' | '\t' | '\n' | '\r' | '\u{c}' => {
                rest.next();
                continue;
            }
            '/' if rest.left().starts_with("//") => {
                rest.skip_while(|c| c != '\n');
                continue;
            }
            '"' | '\'' => string(&mut rest, false)?,
            _ if c.is_ascii_alphanumeric() || c == '_' => word(&mut rest)?,
            '(' => open.push((rest.step(), ')')),
            '[' => open.push((rest.step(), ']')),
            '{' => open.push((rest.step(), '}')),
            ')' | ']' | '}' => {
                rest.next();
                if open.pop().is_none_or(|(_, close)| close != c) {
                    return Err((start, syntax(&format!("this {c} closes nothing"))));
                }
            }
            '?' => {
                ternaries += 1;
                rest.next();
            }
            '.' | ',' | ':' | '+' | '-' | '*' | '/' | '%' | '!' | '=' | '<' | '>' | '&' | '|' => {
                rest.next();
            }
            _ => return Err((start, syntax(&format!("{c:?} can stand only inside a string")))),
        }
        tokens += 1;
        if open.len() > MAX_NESTING || ternaries > MAX_NESTING {
            return Err((start, ConditionProblem::TooDeep));
        }
        if tokens > MAX_TOKENS {
            return Err((start, ConditionProblem::TooManyTokens));
        }
    }
    match open.pop() {
        Some((start, close)) => Err((start, syntax(&format!("what is opened here isn't closed with {close}")))),
        None => Ok(()),
    }
}

/// A name or a number, or the prefix of a string.
fn word(rest: &mut Rest<'_>) -> Result<(), Found> {
    let before = rest.left();
    let start = rest.at;
    rest.skip_while(|c| c.is_ascii_alphanumeric() || c == '_');
    if !matches!(rest.peek(), Some('"' | '\'')) {
        return Ok(());
    }
    match before.get(..rest.at - start) {
        Some("r" | "R" | "br" | "bR" | "Br" | "BR") => string(rest, true),
        Some("b" | "B") => string(rest, false),
        _ => Err((rest.at, syntax("a string can't follow a name or number at once"))),
    }
}

fn string(rest: &mut Rest<'_>, raw: bool) -> Result<(), Found> {
    let start = rest.at;
    let Some(quote) = rest.next() else { return Ok(()) };
    let triple = if quote == '"' { "\"\"" } else { "''" };
    let long = rest.left().starts_with(triple);
    if long {
        rest.next();
        rest.next();
    }
    loop {
        let at = rest.at;
        match rest.next() {
            None => return Err((start, syntax("the string that starts here isn't closed"))),
            Some('\n' | '\r') if !long => {
                return Err((start, syntax("the string that starts here isn't closed in its line")));
            }
            Some('\\') if !raw => escape(rest).ok_or_else(|| (at, syntax("no such escape in a string")))?,
            Some(c) if c == quote && !long => return Ok(()),
            Some(c) if c == quote && rest.left().starts_with(triple) => {
                rest.next();
                rest.next();
                return Ok(());
            }
            Some(_) => {}
        }
    }
}

/// What may follow a backslash. The lexer takes nothing else, and would go on inside the string.
fn escape(rest: &mut Rest<'_>) -> Option<()> {
    let c = rest.next()?;
    let (digits, radix) = match c {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => (0, 16),
        'x' | 'X' => (2, 16),
        'u' => (4, 16),
        'U' => (8, 16),
        '0'..='3' => (2, 8),
        _ => return None,
    };
    (0..digits).try_for_each(|_| rest.next()?.is_digit(radix).then_some(()))
}

fn syntax(text: &str) -> ConditionProblem {
    ConditionProblem::Syntax(text.to_owned())
}

struct Rest<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Rest<'a> {
    fn left(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.left().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Goes on by a character, and says where it stood.
    fn step(&mut self) -> usize {
        let at = self.at;
        self.next();
        at
    }

    fn skip_while(&mut self, fits: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&fits) {
            self.next();
        }
    }
}
