//! Just enough of a lexer to tell code from comments and strings in Rust and C++.

/// What a character belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    /// A string or character, its quotes included.
    Quoted,
}

/// A source file taken apart: each part is as long as the whole, with blanks where the other stands.
pub struct Parts {
    /// Without comments and strings.
    pub code: String,
    pub comments: String,
    /// Strings: messages and help.
    pub quoted: String,
}

impl Parts {
    pub fn of(text: &str) -> Parts {
        let source: Vec<char> = text.chars().collect();
        let kinds = kinds(&source);
        let only = |kind: Kind| {
            let shown = |(&c, &k): (&char, &Kind)| if k == kind || c == '\n' { c } else { ' ' };
            source.iter().zip(&kinds).map(shown).collect()
        };
        Parts { code: only(Kind::Code), comments: only(Kind::Comment), quoted: only(Kind::Quoted) }
    }
}

fn kinds(source: &[char]) -> Vec<Kind> {
    let at = |i: usize| source.get(i).copied().unwrap_or('\n');
    let find = |from: usize, is: &dyn Fn(usize) -> bool| (from..source.len()).find(|&i| is(i)).unwrap_or(source.len());
    let mut kinds = vec![Kind::Code; source.len()];
    let mut i = 0;
    while i < source.len() {
        let (kind, from, end, next) = match (at(i), at(i + 1)) {
            ('/', '/') => {
                let end = find(i, &|k| at(k) == '\n');
                (Kind::Comment, i, end, end)
            }
            ('/', '*') => {
                let end = find(i + 2, &|k| at(k) == '*' && at(k + 1) == '/') + 2;
                (Kind::Comment, i, end, end)
            }
            ('r', '"' | '#') if i == 0 || !is_word(at(i - 1)) || at(i - 1) == 'b' => {
                let open = find(i + 1, &|k| at(k) != '#');
                let hashes = open - i - 1;
                if at(open) == '"' {
                    let end = find(open + 1, &|k| at(k) == '"' && (1..=hashes).all(|h| at(k + h) == '#'));
                    (Kind::Quoted, i, end + 1 + hashes, end + 1 + hashes)
                } else {
                    (Kind::Code, i, open, open)
                }
            }
            ('"', _) => {
                let mut end = i + 1;
                while end < source.len() && at(end) != '"' {
                    end += if at(end) == '\\' { 2 } else { 1 };
                }
                (Kind::Quoted, i, end + 1, end + 1)
            }
            // A character, not a lifetime.
            ('\'', '\\') => {
                let end = find(i + 3, &|k| at(k) == '\'');
                (Kind::Quoted, i, end + 1, end + 1)
            }
            ('\'', _) if at(i + 2) == '\'' => (Kind::Quoted, i, i + 3, i + 3),
            _ => (Kind::Code, i, i + 1, i + 1),
        };
        let end = end.min(source.len());
        kinds[from..end].fill(kind);
        i = next;
    }
    kinds
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The words of code, each with what stands before it, blanks left out.
pub fn words(code: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let start = rest + code[rest..].find(is_word)?;
        let end = code[start..].find(|c| !is_word(c)).map_or(code.len(), |n| start + n);
        rest = end;
        Some((code[..start].trim_end(), &code[start..end]))
    })
}

/// Code without what is compiled for tests alone.
pub fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]").into_iter().chain(rest.find("#[cfg(all(test")).min() {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let open = item.find(['{', ';']).unwrap_or(item.len());
        let mut depth = 0;
        let closes = |(i, c): (usize, char)| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            (i >= open && depth == 0).then_some(i + 1)
        };
        let end = item.char_indices().find_map(closes).unwrap_or(item.len());
        // Lines keep their numbers.
        kept.extend(item[..end].chars().filter(|&c| c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// The line, counted from 1, of a byte of a text.
pub fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
