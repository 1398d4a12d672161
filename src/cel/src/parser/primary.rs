//! Names, messages, lists, maps and literals.

use super::{EXPECTED, Parse, Parser};
use crate::ast::{Expr, FieldInit, Kind, Literal, MapEntry};
use crate::decl::RESERVED;
use crate::lexer::{Tok, unescape};

impl Parser {
    pub(super) fn primary(&mut self) -> Parse<Expr> {
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

    pub(super) fn literal(&mut self) -> Parse<Expr> {
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
