//! Parser: a recursive descent over the tokens.
//!
//! The grammar is small enough that a parser generator's tables would exceed the code. The depth
//! has the same bound as in cel-go, so that no input exhausts the stack.

use crate::ast::{Ast, Expr, FieldInit, Kind, Literal, MapEntry, op};
use crate::decl::RESERVED;
use crate::lexer::{Tok, Token, lex, unescape};
use crate::macros;
use crate::source::Issues;

/// Maximum nesting depth of an expression.
const MAX_DEPTH: usize = 250;
/// Maximum length of an expression, in characters.
const MAX_SIZE: usize = 100_000;

const EXPECTED: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, \
                        NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// Aborts parsing after a reported syntax error.
struct Stop;

type Parse<T> = Result<T, Stop>;

/// State of the parser: tokens and position, nesting depth, node offsets and errors.
pub(crate) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    offsets: Vec<u32>,
    issues: Issues,
}

/// Parses an expression.
pub(crate) fn parse(source: &str) -> Result<Ast, Issues> {
    let mut issues = Issues::new(source);
    let size = source.chars().count();
    if size > MAX_SIZE {
        issues.report(
            None,
            format!("expression code point size exceeds limit: size: {size}, limit {MAX_SIZE}"),
        );
        return Err(issues);
    }
    let tokens = lex(source, &mut issues);
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
        // ID 0 is not assigned to nodes.
        offsets: vec![0],
        issues,
    };
    let root = parser.start();
    match root {
        Ok(root) if parser.issues.is_empty() => Ok(Ast {
            root,
            offsets: parser.offsets,
        }),
        _ => Err(parser.issues.sorted()),
    }
}

impl Parser {
    /// Allocates a node ID for a character offset.
    pub(crate) fn id(&mut self, offset: u32) -> u32 {
        self.offsets.push(offset);
        self.offsets.len() as u32 - 1
    }

    /// Returns whether macro expansions have made the tree too large for further ones.
    pub(crate) fn is_large(&self) -> bool {
        self.offsets.len() > 2 * MAX_SIZE
    }

    /// Assigns new IDs, with the same offsets, to an expression and its descendants.
    pub(crate) fn renew(&mut self, e: &mut Expr) {
        e.id = self.id(self.offsets[e.id as usize]);
        match &mut e.kind {
            Kind::Unspecified | Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.renew(operand),
            Kind::Call { target, args, .. } => {
                if let Some(target) = target {
                    self.renew(target);
                }
                args.iter_mut().for_each(|a| self.renew(a));
            }
            Kind::List { elements, .. } => elements.iter_mut().for_each(|a| self.renew(a)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| {
                entry.id = self.id(self.offsets[entry.id as usize]);
                self.renew(&mut entry.key);
                self.renew(&mut entry.value);
            }),
            Kind::Struct { fields, .. } => fields.iter_mut().for_each(|field| {
                field.id = self.id(self.offsets[field.id as usize]);
                self.renew(&mut field.value);
            }),
            Kind::Comprehension(c) => {
                for e in [
                    &mut c.range,
                    &mut c.init,
                    &mut c.condition,
                    &mut c.step,
                    &mut c.result,
                ] {
                    self.renew(e);
                }
            }
        }
    }

    fn node(&mut self, offset: u32, kind: Kind) -> Expr {
        Expr {
            id: self.id(offset),
            kind,
        }
    }

    fn global(&mut self, id: u32, function: &str, args: Vec<Expr>) -> Expr {
        Expr {
            id,
            kind: Kind::Call {
                target: None,
                function: function.into(),
                args,
            },
        }
    }

    fn peek(&self) -> &Tok {
        &self.tokens[self.at].tok
    }

    fn offset(&self) -> u32 {
        self.tokens[self.at].offset
    }

    fn advance(&mut self) -> u32 {
        let offset = self.offset();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        offset
    }

    fn eat(&mut self, operator: &str) -> Option<u32> {
        match self.peek() {
            Tok::Op(o) if *o == operator => Some(self.advance()),
            _ => None,
        }
    }

    fn syntax<T>(&mut self, message: &str) -> Parse<T> {
        let offset = self.offset();
        self.issues
            .report(Some(offset), format!("Syntax error: {message}"));
        Err(Stop)
    }

    fn unexpected<T>(&mut self, expecting: &str) -> Parse<T> {
        let text = self.tokens[self.at].text.clone();
        self.syntax(&format!("mismatched input '{text}' expecting {expecting}"))
    }

    fn expect(&mut self, operator: &'static str) -> Parse<u32> {
        match self.eat(operator) {
            Some(offset) => Ok(offset),
            None if *self.peek() == Tok::Eof => {
                self.syntax(&format!("missing '{operator}' at '<EOF>'"))
            }
            None => self.unexpected(&format!("'{operator}'")),
        }
    }

    fn problem(&mut self, offset: u32, message: String) -> Expr {
        self.issues.report(Some(offset), message);
        self.node(offset, Kind::Unspecified)
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parse<T>) -> Parse<T> {
        self.count("expression recursion limit exceeded: 250")?;
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn count(&mut self, message: &str) -> Parse<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.issues.report(None, message);
            return Err(Stop);
        }
        Ok(())
    }

    fn start(&mut self) -> Parse<Expr> {
        let e = self.expr()?;
        if *self.peek() == Tok::Eof {
            return Ok(e);
        }
        let text = self.tokens[self.at].text.clone();
        let last = self.at + 2 == self.tokens.len();
        if last {
            self.syntax(&format!("extraneous input '{text}' expecting <EOF>"))
        } else {
            self.syntax(&format!("mismatched input '{text}' expecting <EOF>"))
        }
    }

    fn expr(&mut self) -> Parse<Expr> {
        self.deeper(Self::conditional)
    }

    fn conditional(&mut self) -> Parse<Expr> {
        let condition = self.logic("||", op::OR)?;
        let Some(offset) = self.eat("?") else {
            return Ok(condition);
        };
        let id = self.id(offset);
        let yes = self.logic("||", op::OR)?;
        self.expect(":")?;
        let no = self.expr()?;
        Ok(self.global(id, op::CONDITIONAL, vec![condition, yes, no]))
    }

    /// Parses a chain of `||` or `&&` into a balanced tree.
    fn logic(&mut self, operator: &'static str, function: &'static str) -> Parse<Expr> {
        let term = |p: &mut Self| match operator {
            "||" => p.logic("&&", op::AND),
            _ => p.binary(0),
        };
        let mut terms = vec![Some(term(self)?)];
        let mut ids = Vec::new();
        while let Some(offset) = self.eat(operator) {
            let next = term(self)?;
            ids.push(self.id(offset));
            terms.push(Some(next));
        }
        Ok(self.balance(function, &mut terms, &ids))
    }

    fn balance(&mut self, function: &str, terms: &mut [Option<Expr>], ids: &[u32]) -> Expr {
        if ids.is_empty() {
            // The slice has one term more than there are operators.
            return terms[0].take().unwrap_or(Expr {
                id: 0,
                kind: Kind::Unspecified,
            });
        }
        let mid = ids.len() / 2;
        let (left, right) = terms.split_at_mut(mid + 1);
        let left = self.balance(function, left, &ids[..mid]);
        let right = self.balance(function, right, &ids[mid + 1..]);
        self.global(ids[mid], function, vec![left, right])
    }

    /// Parses binary operators of at least the given precedence: comparisons, sums and products.
    fn binary(&mut self, least: u8) -> Parse<Expr> {
        let mut left = self.unary()?;
        let mut counted = 0;
        loop {
            let (precedence, function) = match self.peek() {
                Tok::Op("<") => (0, "_<_"),
                Tok::Op("<=") => (0, "_<=_"),
                Tok::Op(">=") => (0, "_>=_"),
                Tok::Op(">") => (0, "_>_"),
                Tok::Op("==") => (0, "_==_"),
                Tok::Op("!=") => (0, "_!=_"),
                Tok::In => (0, op::IN),
                Tok::Op("+") => (1, op::ADD),
                Tok::Op("-") => (1, "_-_"),
                Tok::Op("*") => (2, "_*_"),
                Tok::Op("/") => (2, "_/_"),
                Tok::Op("%") => (2, "_%_"),
                _ => break,
            };
            if precedence < least {
                break;
            }
            // The tree of a chain is as deep as the chain is long.
            self.count("max recursion depth exceeded")?;
            counted += 1;
            let offset = self.advance();
            let id = self.id(offset);
            let right = self.binary(precedence + 1)?;
            left = self.global(id, function, vec![left, right]);
        }
        self.depth -= counted;
        Ok(left)
    }

    fn unary(&mut self) -> Parse<Expr> {
        let (operator, function) = match self.peek() {
            Tok::Op("!") => ("!", op::NOT),
            // A minus directly before a number is part of the literal.
            Tok::Op("-")
                if !matches!(
                    self.tokens.get(self.at + 1).map(|t| &t.tok),
                    Some(Tok::Int(_) | Tok::Float(_))
                ) =>
            {
                ("-", op::NEGATE)
            }
            _ => return self.member(),
        };
        let mut first = None;
        let mut count = 0;
        while let Some(offset) = self.eat(operator) {
            first.get_or_insert(offset);
            count += 1;
        }
        if count % 2 == 0 {
            return self.member();
        }
        let id = self.id(first.unwrap_or_default());
        let operand = self.member()?;
        Ok(self.global(id, function, vec![operand]))
    }

    fn member(&mut self) -> Parse<Expr> {
        let mut e = self.primary()?;
        let mut counted = 0;
        loop {
            if matches!(self.peek(), Tok::Op("." | "[")) {
                self.count("max recursion depth exceeded")?;
                counted += 1;
            }
            if let Some(dot) = self.eat(".") {
                e = self.selection(e, dot)?;
            } else if let Some(bracket) = self.eat("[") {
                let function = if self.eat("?").is_some() {
                    op::OPT_INDEX
                } else {
                    op::INDEX
                };
                let id = self.id(bracket);
                let index = self.expr()?;
                self.expect("]")?;
                e = self.global(id, function, vec![e, index]);
            } else {
                self.depth -= counted;
                return Ok(e);
            }
        }
    }

    fn selection(&mut self, operand: Expr, dot: u32) -> Parse<Expr> {
        let optional = self.eat("?").is_some();
        let place = self.offset();
        let (name, escaped) = match self.peek().clone() {
            Tok::Ident(name) => (name, false),
            Tok::EscIdent(name) => (name, true),
            _ => return self.no_identifier(),
        };
        self.advance();
        if escaped {
            // Kubernetes does not enable this syntax.
            return Ok(self.problem(place, "unsupported syntax: '`'".into()));
        }
        if !optional && let Some(open) = self.eat("(") {
            let id = self.id(open);
            let args = self.arguments()?;
            return Ok(self.call(id, open, name, Some(operand), args));
        }
        if optional {
            let field = self.node(place, Kind::Literal(Literal::String(name.into())));
            let id = self.id(dot);
            return Ok(self.global(id, op::OPT_SELECT, vec![operand, field]));
        }
        Ok(self.node(
            dot,
            Kind::Select {
                operand: Box::new(operand),
                field: name,
                test_only: false,
            },
        ))
    }

    fn no_identifier<T>(&mut self) -> Parse<T> {
        match self.peek() {
            Tok::True | Tok::False | Tok::Null => self.unexpected("IDENTIFIER"),
            Tok::Eof => self.syntax("no viable alternative at input '.'"),
            _ => {
                let text = self.tokens[self.at].text.clone();
                self.syntax(&format!("no viable alternative at input '.{text}'"))
            }
        }
    }

    fn arguments(&mut self) -> Parse<Vec<Expr>> {
        let mut args = Vec::new();
        if self.eat(")").is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.eat(",").is_none() {
                self.expect(")")?;
                return Ok(args);
            }
        }
    }

    fn call(
        &mut self,
        id: u32,
        offset: u32,
        function: String,
        target: Option<Expr>,
        args: Vec<Expr>,
    ) -> Expr {
        if !macros::is_macro(&function, target.is_some(), args.len()) {
            return Expr {
                id,
                kind: Kind::Call {
                    target: target.map(Box::new),
                    function,
                    args,
                },
            };
        }
        match macros::expand(self, offset, &function, target, args) {
            Ok(e) => e,
            Err(error) => {
                let offset = self.offsets[error.at as usize];
                self.problem(offset, error.message)
            }
        }
    }

    fn primary(&mut self) -> Parse<Expr> {
        let offset = self.offset();
        match self.peek().clone() {
            Tok::Ident(_) => self.named(String::new()),
            Tok::Op(".") => {
                self.advance();
                if matches!(self.peek(), Tok::Ident(_)) {
                    self.named(".".into())
                } else {
                    self.no_identifier()
                }
            }
            Tok::Op("(") => {
                self.advance();
                let e = self.expr()?;
                self.expect(")")?;
                Ok(e)
            }
            Tok::Op("[") => {
                self.advance();
                self.list(offset)
            }
            Tok::Op("{") => {
                self.advance();
                self.map(offset)
            }
            _ => self.literal(),
        }
    }

    /// Parses an identifier, a function call or a message.
    fn named(&mut self, dot: String) -> Parse<Expr> {
        let start = self.at;
        if let Some(e) = self.message(&dot)? {
            return Ok(e);
        }
        self.at = start;
        let offset = self.offset();
        let Tok::Ident(name) = self.peek().clone() else {
            return self.unexpected("IDENTIFIER");
        };
        self.advance();
        let open = self.eat("(");
        if RESERVED.contains(&name.as_str()) {
            let e = self.problem(offset, format!("reserved identifier: {name}"));
            if open.is_some() {
                self.arguments()?;
            }
            return Ok(e);
        }
        let name = dot + &name;
        let Some(open) = open else {
            return Ok(self.node(offset, Kind::Ident(name)));
        };
        let id = self.id(open);
        let args = self.arguments()?;
        Ok(self.call(id, open, name, None, args))
    }

    /// Parses a message `a.b.C{…}`, `None` for anything else.
    fn message(&mut self, dot: &str) -> Parse<Option<Expr>> {
        let mut name = dot.to_owned();
        loop {
            let Tok::Ident(part) = self.peek().clone() else {
                return Ok(None);
            };
            name.push_str(&part);
            self.advance();
            if self.eat(".").is_some() {
                name.push('.');
                continue;
            }
            let Some(brace) = self.eat("{") else {
                return Ok(None);
            };
            let id = self.id(brace);
            let fields = self.fields()?;
            return Ok(Some(Expr {
                id,
                kind: Kind::Struct { name, fields },
            }));
        }
    }

    fn fields(&mut self) -> Parse<Vec<FieldInit>> {
        let mut fields = Vec::new();
        loop {
            if self.eat("}").is_some() {
                return Ok(fields);
            }
            let optional = self.eat("?").is_some();
            let place = self.offset();
            let (name, escaped) = match self.peek().clone() {
                Tok::Ident(name) => (name, false),
                Tok::EscIdent(name) => (name, true),
                _ if fields.is_empty() => {
                    return self.unexpected("{'}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}");
                }
                _ => return self.unexpected("{'}', '?', IDENTIFIER, ESC_IDENTIFIER}"),
            };
            self.advance();
            if escaped {
                self.problem(place, "unsupported syntax: '`'".into());
            }
            let colon = self.expect(":")?;
            let id = self.id(colon);
            let value = self.expr()?;
            fields.push(FieldInit {
                id,
                name,
                value,
                optional,
            });
            if self.eat(",").is_none() {
                if self.eat("}").is_some() {
                    return Ok(fields);
                }
                return self.unexpected("{'}', ','}");
            }
        }
    }

    fn list(&mut self, offset: u32) -> Parse<Expr> {
        let id = self.id(offset);
        let mut elements = Vec::new();
        let mut optional = Vec::new();
        loop {
            if self.eat("]").is_some() {
                break;
            }
            if elements.is_empty() && self.eat(",").is_some() {
                self.expect("]")?;
                break;
            }
            optional.push(self.eat("?").is_some());
            elements.push(self.expr()?);
            if self.eat(",").is_none() {
                if self.eat("]").is_some() {
                    break;
                }
                return self.unexpected("{']', ','}");
            }
        }
        Ok(Expr {
            id,
            kind: Kind::List { elements, optional },
        })
    }

    fn map(&mut self, offset: u32) -> Parse<Expr> {
        let id = self.id(offset);
        let mut entries: Vec<MapEntry> = Vec::new();
        loop {
            if self.eat("}").is_some() {
                break;
            }
            if entries.is_empty() && self.eat(",").is_some() {
                self.expect("}")?;
                break;
            }
            let optional = self.eat("?").is_some();
            let key = self.expr()?;
            let colon = self.expect(":")?;
            let id = self.id(colon);
            let value = self.expr()?;
            entries.push(MapEntry {
                id,
                key,
                value,
                optional,
            });
            if self.eat(",").is_none() {
                if self.eat("}").is_some() {
                    break;
                }
                return self.unexpected("{'}', ','}");
            }
        }
        Ok(Expr {
            id,
            kind: Kind::Map(entries),
        })
    }

    fn literal(&mut self) -> Parse<Expr> {
        let offset = self.offset();
        let sign = if matches!(self.peek(), Tok::Op("-")) {
            self.advance();
            "-"
        } else {
            ""
        };
        let tok = self.peek().clone();
        let literal = match tok {
            Tok::Int(text) => {
                let parsed = match text.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(&format!("{sign}{hex}"), 16),
                    None => format!("{sign}{text}").parse(),
                };
                parsed.map(Literal::Int).map_err(|_| "invalid int literal")
            }
            Tok::Uint(text) => {
                let parsed = match text.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => text.parse(),
                };
                parsed
                    .map(Literal::Uint)
                    .map_err(|_| "invalid uint literal")
            }
            Tok::Float(text) => match format!("{sign}{text}").parse::<f64>() {
                Ok(f) if f.is_finite() => Ok(Literal::Double(f)),
                _ => Err("invalid double literal"),
            },
            Tok::Str(text) => unescape(&text, false)
                .and_then(|b| String::from_utf8(b).map_err(|_| "unable to unescape string"))
                .map(|s| Literal::String(s.into())),
            Tok::Bytes(text) => unescape(&text, true).map(|b| Literal::Bytes(b.into())),
            Tok::True => Ok(Literal::Bool(true)),
            Tok::False => Ok(Literal::Bool(false)),
            Tok::Null => Ok(Literal::Null),
            _ => return self.unexpected(EXPECTED),
        };
        self.advance();
        Ok(match literal {
            Ok(literal) => self.node(offset, Kind::Literal(literal)),
            Err(message) => self.problem(offset, message.into()),
        })
    }
}
