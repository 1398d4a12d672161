//! Parser: a recursive descent over the tokens.
//!
//! The grammar is small enough that a parser generator's tables would exceed the code. The depth
//! has the same bound as in cel-go, so that no input exhausts the stack.

mod member;
mod primary;

use crate::ast::{Ast, Expr, Kind, op};
use crate::lexer::{Tok, Token, lex};
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
}
