//! Selections, indexes and calls.

use super::{Parse, Parser};
use crate::ast::{Expr, Kind, Literal, op};
use crate::lexer::Tok;
use crate::macros;

impl Parser {
    pub(super) fn member(&mut self) -> Parse<Expr> {
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

    pub(super) fn no_identifier<T>(&mut self) -> Parse<T> {
        match self.peek() {
            Tok::True | Tok::False | Tok::Null => self.unexpected("IDENTIFIER"),
            Tok::Eof => self.syntax("no viable alternative at input '.'"),
            _ => {
                let text = self.tokens[self.at].text.clone();
                self.syntax(&format!("no viable alternative at input '.{text}'"))
            }
        }
    }

    pub(super) fn arguments(&mut self) -> Parse<Vec<Expr>> {
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

    pub(super) fn call(
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
}
