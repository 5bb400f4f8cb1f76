//! Patterns as RE2 reads them.
//!
//! Where RE2 and the regex crate read the same pattern differently, the pattern is rejected.

use std::fmt;

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Hir, HirKind, Look, translate::Translator};

/// Parses a pattern as RE2 would, without its redundant outer anchors.
///
/// The pattern is parsed by itself, never pasted into a larger one: `a)|(b` stays an error.
pub(super) fn parse(pattern: &str) -> Result<Hir, regex::Error> {
    let syntax = |error: &dyn fmt::Display| regex::Error::Syntax(error.to_string());
    let ast = ast::parse::Parser::new()
        .parse(pattern)
        .map_err(|error| syntax(&error))?;
    ast::visit(&ast, Re2Subset { pattern }).map_err(|error| syntax(&error))?;
    let hir = Translator::new()
        .translate(pattern, &ast)
        .map_err(|error| syntax(&error))?;
    if let HirKind::Concat(parts) = hir.kind() {
        let mut parts = parts.as_slice();
        while let [head, rest @ ..] = parts
            && matches!(head.kind(), HirKind::Look(Look::Start))
        {
            parts = rest;
        }
        while let [rest @ .., tail] = parts
            && matches!(tail.kind(), HirKind::Look(Look::End))
        {
            parts = rest;
        }
        return Ok(Hir::concat(parts.to_vec()));
    }
    Ok(hir)
}

/// Syntax that the regex crate and RE2 read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum DialectError {
    #[error("flags other than i, m, s and U are not RE2")]
    Flag,
    #[error("set operations and nested classes are not RE2; escape `[`, `&`, `-` or `~` in a class")]
    ClassSet,
    #[error("word boundaries other than \\b and \\B are not RE2")]
    WordBoundary,
    #[error("\\u and \\U escapes are not RE2; write \\x{{...}}")]
    UnicodeEscape,
    #[error("`{{,n}}` is not RE2; write `{{0,n}}`")]
    OpenRepetition,
}

struct Re2Subset<'p> {
    pattern: &'p str,
}

impl Re2Subset<'_> {
    fn flags(flags: &ast::Flags) -> Result<(), DialectError> {
        let foreign = |item: &ast::FlagsItem| {
            matches!(
                item.kind,
                ast::FlagsItemKind::Flag(ast::Flag::Unicode | ast::Flag::CRLF | ast::Flag::IgnoreWhitespace)
            )
        };
        if flags.items.iter().any(foreign) {
            Err(DialectError::Flag)
        } else {
            Ok(())
        }
    }

    fn literal(literal: &ast::Literal) -> Result<(), DialectError> {
        use ast::HexLiteralKind::{UnicodeLong, UnicodeShort};
        match literal.kind {
            ast::LiteralKind::HexFixed(UnicodeShort | UnicodeLong)
            | ast::LiteralKind::HexBrace(UnicodeShort | UnicodeLong) => Err(DialectError::UnicodeEscape),
            _ => Ok(()),
        }
    }
}

impl ast::Visitor for Re2Subset<'_> {
    type Output = ();
    type Err = DialectError;

    fn finish(self) -> Result<(), DialectError> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), DialectError> {
        match ast {
            Ast::Flags(set) => Self::flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(flags) => Self::flags(flags),
                _ => Ok(()),
            },
            Ast::Literal(literal) => Self::literal(literal),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText
                | ast::AssertionKind::WordBoundary
                | ast::AssertionKind::NotWordBoundary => Ok(()),
                _ => Err(DialectError::WordBoundary),
            },
            Ast::Repetition(repetition) => {
                let span = &repetition.op.span;
                let operator = self
                    .pattern
                    .get(span.start.offset..span.end.offset)
                    .unwrap_or_default();
                if operator.starts_with("{,") {
                    Err(DialectError::OpenRepetition)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), DialectError> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err(DialectError::ClassSet),
            ast::ClassSetItem::Literal(literal) => Self::literal(literal),
            ast::ClassSetItem::Range(range) => {
                Self::literal(&range.start)?;
                Self::literal(&range.end)
            }
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), DialectError> {
        Err(DialectError::ClassSet)
    }
}
