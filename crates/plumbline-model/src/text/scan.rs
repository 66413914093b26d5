//! What a template's source needs before the engine compiles it.
//!
//! The engine speaks Jinja2 but for a few things that are settled here, on the source, so that line numbers stay:
//! line ends (Jinja2 reads every kind as `\n`), transformers' `{% generation %}` tag (a scope of its own without effect on
//! the text), `value.items` without a call, which in Python is the dictionary's method whether or not the dictionary
//! has such a key, and loops over a string's characters.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::objects::{ATTRIBUTE_MARK, DICT_METHODS, ITEM_MARK};

/// Name of the function that the engine is given for what loops run over.
pub(super) const ITERATED: &str = "__iterated";

/// Name of the function that makes a Python dictionary of the engine's own.
pub(super) const DICT: &str = "__dict";

/// A source that the engine can compile.
pub(super) struct Prepared {
    pub(super) source: String,
    /// Every name in the template's code, with the line of its first use, from 1.
    pub(super) names: BTreeMap<String, usize>,
}

/// # Errors
/// Line and reason of what the engine would do otherwise than Jinja2.
pub(super) fn prepare(source: &str) -> Result<Prepared, (usize, String)> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut scan = Scan { source: &source, at: 0, tokens: Vec::new() };
    scan.run();
    let mut edits = edits(&source, &scan.tokens);
    let mut names = BTreeMap::new();
    for token in scan.tokens.iter().filter(|token| token.kind == Kind::Name) {
        let line = || line_of(&source, token);
        names.entry(source[token.range.clone()].to_owned()).or_insert_with(line);
    }
    refuse(&source, &scan.tokens)?;
    Ok(Prepared { source: apply(&source, &mut edits), names })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Start of `{{` or `{%`.
    Open,
    /// End of an expression or a tag.
    Close,
    Name,
    Text,
    Sign,
}

#[derive(Clone, Debug)]
struct Token {
    kind: Kind,
    range: Range<usize>,
}

struct Scan<'s> {
    source: &'s str,
    at: usize,
    tokens: Vec<Token>,
}

impl Scan<'_> {
    fn run(&mut self) {
        while let Some(found) = self.source[self.at..].find('{') {
            self.at += found;
            match self.source.as_bytes().get(self.at + 1) {
                Some(b'#') => {
                    self.at = self.source[self.at..].find("#}").map_or(self.source.len(), |end| self.at + end + 2);
                }
                Some(b'{') => self.code("}}"),
                Some(b'%') => {
                    let first = self.tokens.len() + 1;
                    self.code("%}");
                    let name = self.tokens[first..].iter().find(|token| token.kind != Kind::Sign);
                    if name.is_some_and(|token| &self.source[token.range.clone()] == "raw") {
                        self.skip_raw();
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Behind `{% raw %}` everything is text up to `{% endraw %}`.
    fn skip_raw(&mut self) {
        let rest = &self.source[self.at..];
        let end = rest.match_indices("{%").find_map(|(start, _)| {
            let inside = rest[start + 2..].trim_start_matches(['-', '+']).trim_start();
            let inside = inside.strip_prefix("endraw")?.trim_start().trim_start_matches(['-', '+']);
            inside.starts_with("%}").then(|| rest.len() - inside.len() + 2)
        });
        self.at += end.unwrap_or(rest.len());
    }

    fn code(&mut self, end: &str) {
        self.push(Kind::Open, 2);
        let mut depth = 0_usize;
        while self.at < self.source.len() {
            let rest = &self.source[self.at..];
            if depth == 0 {
                let closing = rest.strip_prefix(['-', '+']).unwrap_or(rest);
                if closing.starts_with(end) {
                    self.push(Kind::Close, rest.len() - closing.len() + end.len());
                    return;
                }
            }
            let Some(c) = rest.chars().next() else { return };
            match c {
                '\'' | '"' => self.push(Kind::Text, string_length(rest, c)),
                c if c == '_' || c.is_alphanumeric() => {
                    let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
                    let number = c.is_ascii_digit();
                    self.push(if number { Kind::Sign } else { Kind::Name }, length);
                }
                c if c.is_whitespace() => self.at += c.len_utf8(),
                c => {
                    match c {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    self.push(Kind::Sign, c.len_utf8());
                }
            }
        }
    }

    fn push(&mut self, kind: Kind, length: usize) {
        self.tokens.push(Token { kind, range: self.at..self.at + length });
        self.at += length;
    }
}

fn string_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return index + c.len_utf8();
        }
    }
    rest.len()
}

fn line_of(source: &str, token: &Token) -> usize {
    source[..token.range.start].matches('\n').count() + 1
}

/// Refuses what Jinja2 has and the engine lacks without saying so.
fn refuse(source: &str, tokens: &[Token]) -> Result<(), (usize, String)> {
    let text = |index: usize| tokens.get(index).map_or("", |token| &source[token.range.clone()]);
    let has_macro = (1..tokens.len()).any(|i| text(i) == "macro" && opens_tag(source, tokens, i));
    let mut block = 0;
    for (index, token) in tokens.iter().enumerate() {
        let refused = |reason: &str| Err((line_of(source, token), reason.to_owned()));
        match token.kind {
            Kind::Open => block = index,
            Kind::Name if has_macro && matches!(text(index), "varargs" | "kwargs") => {
                return refused("varargs and kwargs of macros are not supported");
            }
            Kind::Name if index > 0 && text(index - 1) == "|" && matches!(text(index), "safe" | "escape" | "e") => {
                let in_block = tokens[block + 1..].iter().take_while(|token| token.kind != Kind::Close);
                if in_block.into_iter().any(|token| source[token.range.clone()] == *"+") {
                    return refused("text marked as safe cannot be added to other text, which Jinja2 would escape");
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn edits(source: &str, tokens: &[Token]) -> Vec<(Range<usize>, String)> {
    let text = |index: usize| tokens.get(index).map_or("", |token| &source[token.range.clone()]);
    let kind = |index: usize| tokens.get(index).map(|token| token.kind);
    let namespaces: BTreeSet<&str> = (0..tokens.len())
        .filter(|&i| text(i) == "set" && text(i + 2) == "=" && text(i + 3) == "namespace" && text(i + 4) == "(")
        .map(|i| text(i + 1))
        .collect();
    let mut edits = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        if token.kind != Kind::Name {
            continue;
        }
        let name = text(index);
        let is_whole_tag = || kind(index + 1) == Some(Kind::Close) && opens_tag(source, tokens, index);
        match name {
            "for" if opens_tag(source, tokens, index) => edits.extend(iterated(source, tokens, index)),
            "generation" | "endgeneration" if is_whole_tag() => {
                let replacement = if name == "generation" { "with" } else { "endwith" };
                edits.push((token.range.clone(), replacement.to_owned()));
            }
            _ if DICT_METHODS.contains(&name)
                && index > 1
                && text(index - 1) == "."
                && text(index + 1) != "("
                && !namespaces.contains(text(index - 2)) =>
            {
                let dot = &tokens[index - 1].range;
                edits.push((dot.start..token.range.end, format!("[\"{ATTRIBUTE_MARK}{name}\"]")));
            }
            _ => {}
        }
    }
    let is_value = |index: usize| match kind(index) {
        Some(Kind::Name) => !matches!(text(index), "in" | "not" | "and" | "or" | "is" | "if" | "else" | "elif"),
        _ => matches!(text(index), ")" | "]" | "}"),
    };
    for (index, token) in tokens.iter().enumerate() {
        let subscript = index > 1 && text(index - 1) == "[" && text(index + 1) == "]" && is_value(index - 2);
        let name = text(index).trim_matches(['\'', '"']);
        if token.kind == Kind::Text
            && subscript
            && DICT_METHODS.contains(&name)
            && !namespaces.contains(text(index - 2))
        {
            edits.push((token.range.clone(), format!("\"{ITEM_MARK}{name}\"")));
        }
        match text(index) {
            "{" => edits.push((token.range.clone(), format!("{DICT}({{"))),
            "}" => edits.push((token.range.clone(), "})".to_owned())),
            _ => {}
        }
    }
    edits
}

/// Wraps what a loop runs over: the engine does not know the length of a string before its end.
fn iterated(source: &str, tokens: &[Token], start: usize) -> Vec<(Range<usize>, String)> {
    let text = |token: &Token| &source[token.range.clone()];
    let mut depth = 0_i32;
    let (mut first, mut last) = (None, None);
    for (index, token) in tokens.iter().enumerate().skip(start + 1) {
        match text(token) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            "in" if depth == 0 && first.is_none() => first = Some(index + 1),
            "if" | "recursive" if depth == 0 => break,
            _ if token.kind == Kind::Close => break,
            _ => {}
        }
        last = Some(index);
    }
    match (first.and_then(|first| tokens.get(first)), last.and_then(|last| tokens.get(last))) {
        (Some(first), Some(last)) if first.range.start <= last.range.start => {
            let (start, end) = (first.range.start, last.range.end);
            vec![(start..start, format!("{ITERATED}((")), (end..end, "))".to_owned())]
        }
        // Not a loop that compiles: the engine says so.
        _ => Vec::new(),
    }
}

/// Whether this name is the first of a `{%` tag, behind at most a white space sign.
fn opens_tag(source: &str, tokens: &[Token], index: usize) -> bool {
    let is_open = |i: usize| tokens[i].kind == Kind::Open && source[tokens[i].range.clone()] == *"{%";
    let is_sign = |i: usize| matches!(&source[tokens[i].range.clone()], "-" | "+");
    (index >= 1 && is_open(index - 1)) || (index >= 2 && is_sign(index - 1) && is_open(index - 2))
}

/// Edits are in order of their starts, but for the two ends of a loop's subject.
fn apply(source: &str, edits: &mut [(Range<usize>, String)]) -> String {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    for (range, replacement) in edits.iter() {
        out.push_str(&source[at..range.start]);
        out.push_str(replacement);
        at = range.end;
    }
    out.push_str(&source[at..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(source: &str) -> String {
        prepare(source).unwrap().source
    }

    #[test]
    fn generation_tags_become_scopes_and_nothing_else_does() {
        assert_eq!(prepared("{%- generation %}a{% endgeneration -%}"), "{%- with %}a{% endwith -%}");
        for same in [
            "{{ generation }} {{ '{% generation %}' }} {# {% generation %} #}",
            "{% raw %}{% generation %}{{ a.items }}{% endraw %}",
            "{% set generation = 1 %}{% if generation %}x{% endif %}",
            "{{ 'unfinished",
            "{% raw %} never ended {{ a.items }}",
        ] {
            assert_eq!(prepared(same), same);
        }
    }

    #[test]
    fn methods_are_looked_up_as_attributes_unless_they_are_called() {
        for same in ["{{ a.items() }}", "{% set ns = namespace(items=1) %}{{ ns.items }}", "{{ 'a.items' }} a.items"] {
            assert_eq!(prepared(same), same);
        }
        let rewritten = prepared("{{ a.items.x }}\n{{ a['keys'] }}");
        assert_eq!(rewritten, format!("{{{{ a[\"{ATTRIBUTE_MARK}items\"].x }}}}\n{{{{ a[\"{ITEM_MARK}keys\"] }}}}"));
    }

    #[test]
    fn loops_run_over_their_whole_subject() {
        assert_eq!(prepared("{% for x in 1, 2 if x %}"), "{% for x in __iterated((1, 2)) if x %}");
        assert_eq!(
            prepared("{%- for k, v in {'a in': 1}.items() -%}"),
            "{%- for k, v in __iterated((__dict({'a in': 1}).items())) -%}"
        );
        assert_eq!(prepared("{% for x in a recursive %}"), "{% for x in __iterated((a)) recursive %}");
    }

    #[test]
    fn what_the_engine_lacks_is_refused_with_its_line() {
        let (line, reason) = prepare("\n{{ x|safe + 'a' }}").map(|p| p.source).unwrap_err();
        assert!(line == 2 && reason.contains("safe"));
        let (line, _) = prepare("{% macro m() %}\n\n{{ varargs }}{% endmacro %}").map(|p| p.source).unwrap_err();
        assert_eq!(line, 3);
        assert_eq!(
            prepare("a\n{{ b }}\n{{ c }}{{ b }}").unwrap().names,
            BTreeMap::from([("b".into(), 2), ("c".into(), 3)])
        );
    }
}
