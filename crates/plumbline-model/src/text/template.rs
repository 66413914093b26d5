//! The chat template, rendered as transformers' `apply_chat_template(tokenize=False)` renders it.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::chat::{Chat, ChatValue};
use super::clock::CivilTime;
use super::error::TextError;
use super::objects::{dict, python_value};
use super::scan::{DICT, ITERATED};
use super::{filters, methods, python, scan};

/// A model's chat templates with the special tokens that they may name.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    templates: BTreeMap<String, About>,
    special_tokens: BTreeMap<String, String>,
    undetermined: BTreeSet<String>,
}

/// What is known of a template besides its code.
#[derive(Debug)]
struct About {
    /// Line of the first use of each name.
    names: BTreeMap<String, usize>,
}

impl ChatTemplate {
    /// Compiles templates, by name; transformers calls the usual one `default`. `special_tokens` are variables of the
    /// template by their names (`bos_token`, ...).
    ///
    /// # Errors
    /// A template that is no valid Jinja, with its line.
    pub fn new(
        templates: BTreeMap<String, String>,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, TextError> {
        let mut environment = environment()?;
        let mut about = BTreeMap::new();
        for (name, source) in templates {
            let prepared = scan::prepare(&source).map_err(|(line, reason)| TextError::Template {
                name: name.clone(),
                line,
                reason,
            })?;
            environment
                .add_template_owned(name.clone(), prepared.source)
                .map_err(|error| TextError::template(&name, &error))?;
            about.insert(name, About { names: prepared.names });
        }
        Ok(Self { environment, templates: about, special_tokens, undetermined: BTreeSet::new() })
    }

    /// Special tokens that the tokenizer may have without saying so: a template that uses one is refused.
    pub(super) fn with_undetermined(mut self, names: BTreeSet<String>) -> Self {
        self.undetermined = names;
        self
    }

    /// Names of the templates.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.templates.keys().map(String::as_str)
    }

    /// The special tokens that templates see, by the name of their variable.
    #[must_use]
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// The prompt of a conversation. `now` is what `strftime_now` shows.
    ///
    /// # Errors
    /// A conversation that the template refuses, and anything that cannot be rendered exactly as transformers does it.
    pub fn render(&self, chat: &Chat, now: CivilTime) -> Result<String, TextError> {
        let (name, about) = self.choose(chat)?;
        let refused = |line: usize, reason: String| TextError::Template { name: name.to_owned(), line, reason };
        if let Some(token) = self
            .undetermined
            .iter()
            .find(|token| about.names.contains_key(*token) && !chat.variables.contains_key(*token))
        {
            let line = about.names.get(token).copied().unwrap_or(0);
            return Err(refused(line, format!("it uses {token}, which the tokenizer's configuration leaves open")));
        }
        if !now.is_valid() {
            return Err(refused(0, format!("{now:?} is no valid time")));
        }
        let template = self.environment.get_template(name).map_err(|error| TextError::template(name, &error))?;
        let context = self.context(chat, now)?;
        template.render(context).map_err(|error| TextError::template(name, &error))
    }

    /// As transformers chooses: the one asked for, else `tool_use` where there are tools, else `default`.
    fn choose(&self, chat: &Chat) -> Result<(&str, &About), TextError> {
        let find = |name: &str| self.templates.get_key_value(name).map(|(name, about)| (name.as_str(), about));
        let wanted = match &chat.template {
            Some(name) => find(name),
            None => chat.tools.as_ref().and_then(|_| find("tool_use")).or_else(|| find("default")),
        };
        wanted.ok_or_else(|| TextError::UnknownTemplate {
            name: chat.template.clone().unwrap_or_else(|| "default".into()),
            known: self.templates.keys().cloned().collect(),
        })
    }

    fn context(&self, chat: &Chat, now: CivilTime) -> Result<Value, TextError> {
        let list = |values: &[ChatValue]| Value::from(values.iter().map(|v| python_value(&v.0)).collect::<Vec<_>>());
        let optional = |values: &Option<Vec<ChatValue>>| values.as_deref().map_or(Value::from(()), list);
        let messages: Vec<Value> = chat.normalised_messages()?.iter().map(python_value).collect();
        let mut context: BTreeMap<&str, Value> =
            self.special_tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str()))).collect();
        context.insert(
            "strftime_now",
            Value::from_function(move |format: &str| {
                now.strftime(format).map_err(|reason| Error::new(ErrorKind::InvalidOperation, reason))
            }),
        );
        context.extend(chat.variables.iter().map(|(name, value)| (name.as_str(), python_value(&value.0))));
        for name in ["messages", "tools", "documents", "add_generation_prompt"] {
            if chat.variables.contains_key(name) {
                return Err(TextError::Chat(format!("{name} is given twice, as itself and as a variable")));
            }
        }
        context.insert("messages", Value::from(messages));
        context.insert("tools", optional(&chat.tools));
        context.insert("documents", optional(&chat.documents));
        context.insert("add_generation_prompt", Value::from(chat.add_generation_prompt));
        Ok(Value::from_pairs(context))
    }
}

/// The Jinja environment of transformers.
fn environment() -> Result<Environment<'static>, TextError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| TextError::template("", &error))?);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&python::to_str(value)?).map_err(Error::from),
    });
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, python::to_str(message)?))
    });
    environment.add_function(DICT, |pairs: &Value| dict(pairs.clone()));
    environment
        .add_function("dict", |pairs: Option<Value>, named: Kwargs| minijinja::functions::dict(pairs, named).map(dict));
    environment.add_function(ITERATED, |value: &Value| match (value.as_str(), value.is_none()) {
        (Some(text), _) => Ok(Value::from(text.chars().map(|c| Value::from(c.to_string())).collect::<Vec<_>>())),
        (None, true) => Err(Error::new(ErrorKind::InvalidOperation, "none cannot be iterated over")),
        (None, false) => Ok(value.clone()),
    });
    environment.remove_global("debug");
    filters::install(&mut environment);
    Ok(environment)
}
