//! Finds every place in a source file that can be broken in a small way, and says how.
//!
//! It reads the file's text with `syn` and remembers positions in the text; it changes nothing and does not know
//! whether a mutant compiles. Code under `#[cfg(test)]`, constants and the inside of macros are left alone.
//! Tests are at the end of the file.

use std::ops::Range;

use anyhow::{Context as _, Result};
use proc_macro2::Span;
use quote::ToTokens as _;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{BinOp, Expr, ReturnType, Stmt, Type, UnOp};

/// One way to break one place.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    /// What is done, for people: `replace == with !=`.
    pub(crate) what: String,
    /// The text that stands in the place instead.
    pub(crate) text: String,
}

/// How a place in the text is opened for mutants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// An expression: one of several takes its place.
    Expression,
    /// A statement that is left out.
    Statement,
    /// The beginning of a function's body, where it can return early.
    Body,
    /// Behind the pattern of an arm without a guard, which is never taken.
    Arm,
    /// Text that only stands in the way (`const` before `fn`).
    Blank,
}

#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) shape: Shape,
    pub(crate) range: Range<usize>,
    pub(crate) line: usize,
    pub(crate) column: usize,
    /// The function it is in, with its type: `Gate::until`.
    pub(crate) function: String,
    pub(crate) mutations: Vec<Mutation>,
}

/// All sites of a file, in the order of the text; a site inside another one comes after it.
pub(crate) fn find(text: &str) -> Result<Vec<Site>> {
    let file = syn::parse_file(text).context("not Rust")?;
    let mut finder = Finder { text, scope: Vec::new(), sites: Vec::new() };
    finder.visit_file(&file);
    let mut sites = finder.sites;
    sites.sort_by(|a, b| (a.range.start, b.range.end).cmp(&(b.range.start, a.range.end)));
    Ok(sites)
}

struct Finder<'a> {
    text: &'a str,
    scope: Vec<String>,
    sites: Vec<Site>,
}

impl Finder<'_> {
    fn of(&self, span: Span) -> &str {
        &self.text[span.byte_range()]
    }

    fn add(&mut self, shape: Shape, span: Span, range: Range<usize>, mutations: Vec<Mutation>) {
        let at = span.start();
        let function = self.scope.join("::");
        self.sites.push(Site { shape, range, line: at.line, column: at.column + 1, function, mutations });
    }

    fn expression(&mut self, span: Span, mutations: Vec<(String, String)>) {
        let mutations = mutations.into_iter().map(|(what, text)| Mutation { what, text }).collect();
        self.add(Shape::Expression, span, span.byte_range(), mutations);
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        if let Some(token) = &signature.constness {
            self.add(Shape::Blank, token.span(), token.span().byte_range(), Vec::new());
        }
        if block.stmts.is_empty() {
            return;
        }
        let values = match &signature.output {
            ReturnType::Default => vec![String::new()],
            ReturnType::Type(_, kind) => defaults(kind),
        };
        let range = block.brace_token.span.open().byte_range();
        let body = self.of(block.span()).trim_start_matches('{').trim_end_matches('}').trim().to_owned();
        let mutations: Vec<Mutation> = values
            .into_iter()
            .filter(|value| *value != body)
            .map(|value| Mutation {
                what: format!("replace the body with `{}`", if value.is_empty() { "()" } else { &value }),
                text: format!("return {value}"),
            })
            .collect();
        if !mutations.is_empty() {
            self.add(Shape::Body, signature.ident.span(), range.end..range.end, mutations);
        }
    }

    /// A condition that nothing else mutates is turned round.
    fn condition(&mut self, condition: &Expr) {
        match condition {
            Expr::Call(_) | Expr::MethodCall(_) | Expr::Macro(_) | Expr::Path(_) | Expr::Field(_) => {
                let text = format!("!({})", self.of(condition.span()));
                self.expression(condition.span(), vec![("negate the condition".into(), text)]);
            }
            _ => {}
        }
    }
}

/// Whether a condition binds names on its way (`if let … && …`), so that it cannot be taken apart.
fn binds(expr: &Expr) -> bool {
    match expr {
        Expr::Let(_) => true,
        Expr::Binary(binary) => binds(&binary.left) || binds(&binary.right),
        _ => false,
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.meta.to_token_stream().to_string().contains("test")
    })
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast syn::Attribute) {}
    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}
    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}
    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_type(&mut self, _: &'ast Type) {}
    fn visit_pat(&mut self, _: &'ast syn::Pat) {}

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let kind = self.of(item.self_ty.span()).to_owned();
        let name = match &item.trait_ {
            Some((_, path, _)) => format!("<{kind} as {}>", self.of(path.span())),
            None => kind,
        };
        self.scope.push(name);
        visit::visit_item_impl(self, item);
        self.scope.pop();
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.scope.push(item.ident.to_string());
        visit::visit_item_trait(self, item);
        self.scope.pop();
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.scope.push(item.sig.ident.to_string());
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
        self.scope.pop();
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.scope.push(item.sig.ident.to_string());
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
        self.scope.pop();
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.scope.push(item.sig.ident.to_string());
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
        self.scope.pop();
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        if let Stmt::Expr(expr, Some(_)) = statement {
            let inner = if let Expr::Try(tried) = expr { &*tried.expr } else { expr };
            let is_kept = matches!(inner, Expr::Call(_) | Expr::MethodCall(_) | Expr::Assign(_))
                || matches!(inner, Expr::Binary(binary) if assigns(&binary.op));
            if is_kept {
                let span = statement.span();
                let what = format!("delete `{}`", short(self.of(span)));
                let mutation = Mutation { what, text: String::new() };
                self.add(Shape::Statement, span, span.byte_range(), vec![mutation]);
            }
        }
        visit::visit_stmt(self, statement);
    }

    fn visit_expr_if(&mut self, expr: &'ast syn::ExprIf) {
        self.condition(&expr.cond);
        visit::visit_expr_if(self, expr);
    }

    fn visit_expr_match(&mut self, expr: &'ast syn::ExprMatch) {
        let falls_back = expr.arms.last().is_some_and(|arm| {
            arm.guard.is_none()
                && match &arm.pat {
                    syn::Pat::Wild(_) => true,
                    // `None` looks like a name, too.
                    syn::Pat::Ident(name) => name.ident.to_string().starts_with(char::is_lowercase),
                    _ => false,
                }
        });
        for (at, arm) in expr.arms.iter().enumerate() {
            if let Some((_, guard)) = &arm.guard {
                if !binds(guard) {
                    let all =
                        [("replace the guard with true", "true"), ("replace the guard with false", "false")];
                    let all = all.map(|(what, text)| (what.to_owned(), text.to_owned()));
                    self.expression(guard.span(), all.into());
                }
            } else if falls_back && at + 1 < expr.arms.len() {
                let span = arm.pat.span();
                let what = format!("delete the arm `{}`", short(self.of(span)));
                let end = span.byte_range().end;
                self.add(Shape::Arm, span, end..end, vec![Mutation { what, text: String::new() }]);
            }
        }
        visit::visit_expr_match(self, expr);
    }

    fn visit_expr_unary(&mut self, expr: &'ast syn::ExprUnary) {
        let name = match expr.op {
            UnOp::Not(_) => "!",
            UnOp::Neg(_) => "-",
            _ => "",
        };
        if !name.is_empty() {
            let text = self.of(expr.expr.span()).to_owned();
            self.expression(expr.span(), vec![(format!("remove {name}"), text)]);
        }
        visit::visit_expr_unary(self, expr);
    }

    fn visit_expr_binary(&mut self, expr: &'ast syn::ExprBinary) {
        let name = self.of(expr.op.span()).to_owned();
        let others = others(&expr.op);
        if !others.is_empty() && !binds(&expr.left) && !binds(&expr.right) {
            let (left, right) = (self.of(expr.left.span()), self.of(expr.right.span()));
            let all = others.iter().map(|other| {
                let text = if assigns(&expr.op) {
                    format!("{left} {other} {right}")
                } else {
                    format!("({left}) {other} ({right})")
                };
                (format!("replace {name} with {other}"), text)
            });
            let all = all.collect();
            self.expression(expr.span(), all);
        }
        visit::visit_expr_binary(self, expr);
    }
}

fn assigns(op: &BinOp) -> bool {
    matches!(
        op,
        BinOp::AddAssign(_)
            | BinOp::SubAssign(_)
            | BinOp::MulAssign(_)
            | BinOp::DivAssign(_)
            | BinOp::RemAssign(_)
            | BinOp::BitXorAssign(_)
            | BinOp::BitAndAssign(_)
            | BinOp::BitOrAssign(_)
            | BinOp::ShlAssign(_)
            | BinOp::ShrAssign(_)
    )
}

fn others(op: &BinOp) -> &'static [&'static str] {
    match op {
        BinOp::Add(_) => &["-", "*"],
        BinOp::Sub(_) => &["+", "/"],
        BinOp::Mul(_) => &["+", "/"],
        BinOp::Div(_) => &["*", "%"],
        BinOp::Rem(_) => &["/", "+"],
        BinOp::And(_) => &["||"],
        BinOp::Or(_) => &["&&"],
        BinOp::BitXor(_) => &["&", "|"],
        BinOp::BitAnd(_) => &["|", "^"],
        BinOp::BitOr(_) => &["&", "^"],
        BinOp::Shl(_) => &[">>"],
        BinOp::Shr(_) => &["<<"],
        BinOp::Eq(_) => &["!="],
        BinOp::Ne(_) => &["=="],
        BinOp::Lt(_) => &["<=", ">", "=="],
        BinOp::Le(_) => &["<", ">"],
        BinOp::Gt(_) => &[">=", "<", "=="],
        BinOp::Ge(_) => &[">", "<"],
        BinOp::AddAssign(_) => &["-=", "*="],
        BinOp::SubAssign(_) => &["+="],
        BinOp::MulAssign(_) => &["+="],
        BinOp::DivAssign(_) => &["*="],
        BinOp::RemAssign(_) => &["/="],
        BinOp::BitXorAssign(_) => &["|="],
        BinOp::BitAndAssign(_) => &["|="],
        BinOp::BitOrAssign(_) => &["&="],
        BinOp::ShlAssign(_) => &[">>="],
        BinOp::ShrAssign(_) => &["<<="],
        _ => &[],
    }
}

/// Values of a type that somebody lazy might return.
fn defaults(kind: &Type) -> Vec<String> {
    match kind {
        Type::Paren(inner) => defaults(&inner.elem),
        Type::Tuple(tuple) if tuple.elems.is_empty() => vec![String::new()],
        Type::Tuple(tuple) => {
            let firsts: Option<Vec<String>> =
                tuple.elems.iter().map(|elem| defaults(elem).into_iter().next()).collect();
            firsts.map(|firsts| format!("({})", firsts.join(", "))).into_iter().collect()
        }
        Type::Reference(reference) => match &*reference.elem {
            Type::Path(path) if path.path.is_ident("str") => vec!["\"\"".into(), "\"xyzzy\"".into()],
            Type::Slice(_) if reference.mutability.is_none() => vec!["&[]".into()],
            _ => Vec::new(),
        },
        Type::Path(path) => path.path.segments.last().map(of_name).unwrap_or_default(),
        _ => Vec::new(),
    }
}

fn of_name(segment: &syn::PathSegment) -> Vec<String> {
    let inner = || -> Vec<String> {
        let syn::PathArguments::AngleBracketed(arguments) = &segment.arguments else {
            return vec!["Default::default()".into()];
        };
        let first = arguments.args.iter().find_map(|argument| match argument {
            syn::GenericArgument::Type(kind) => Some(kind),
            _ => None,
        });
        let values = first.map(defaults).unwrap_or_default();
        values.into_iter().map(|value| if value.is_empty() { "()".to_owned() } else { value }).collect()
    };
    match segment.ident.to_string().as_str() {
        "bool" => vec!["true".into(), "false".into()],
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => vec!["0".into(), "1".into()],
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => vec!["0".into(), "1".into(), "-1".into()],
        "f32" | "f64" => vec!["0.0".into(), "1.0".into(), "-1.0".into()],
        "String" => vec!["alloc::string::String::new()".into(), "\"xyzzy\".into()".into()],
        "Option" => {
            let some = inner().into_iter().map(|value| format!("Some({value})"));
            std::iter::once("None".to_owned()).chain(some).collect()
        }
        "Result" => inner().into_iter().map(|value| format!("Ok({value})")).collect(),
        "Vec" => {
            let one = inner().into_iter().map(|value| format!("alloc::vec![{value}]"));
            std::iter::once("alloc::vec::Vec::new()".to_owned()).chain(one).collect()
        }
        _ => vec!["Default::default()".into()],
    }
}

fn short(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(70).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it stands")]
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let sites = find(text).unwrap();
        sites.into_iter().flat_map(|site| site.mutations).map(|mutation| mutation.what).collect()
    }

    #[test]
    fn each_kind_of_place_is_found() {
        assert_eq!(
            all(
                "fn f(a: u8) -> Option<bool> { g(a)?; if h() { i += 1; } match a { 1 if x => None, 2 => y, _ => z } }"
            ),
            [
                "replace the body with `None`",
                "replace the body with `Some(true)`",
                "replace the body with `Some(false)`",
                "delete `g(a)?;`",
                "negate the condition",
                "delete `i += 1;`",
                "replace += with -=",
                "replace += with *=",
                "replace the guard with true",
                "replace the guard with false",
                "delete the arm `2`",
            ]
        );
    }

    #[test]
    fn tests_constants_and_chains_that_bind_are_left_alone() {
        assert!(all("const A: u8 = 1 + 2; #[cfg(test)] mod tests { fn f() -> bool { a == b } }").is_empty());
        assert_eq!(all("fn f() -> &T { if let Some(x) = y && a < b { c } else { d } }").len(), 3);
    }
}
