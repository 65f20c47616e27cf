//! Insertion of guards ([`super::guards`]) into a template's syntax tree, around operations that copy, compare or
//! nest values.
//!
//! The engine has no hook for its operators. The parts of its tree are public, so the tree is rebuilt with filters
//! around the relevant operands and results: `a ~ b` becomes `(a | copy) ~ (b | copy)`. Constants behind a filter are
//! not folded, so nothing is computed before it is counted. The template's own text goes through the formatter, which
//! counts output.

use minijinja::Value;
use minijinja::machinery::{Span, ast};

use ast::{BinOpKind, CallArg, CompareOpKind, Expr, Spanned, Stmt};

use super::guards::{COPY, COPY_OUTSIDE, READ, SETTLE, STORE, TIMES};

/// Tests that examine only the kind of a value.
const OF_KINDS: [&str; 14] = [
    "defined",
    "undefined",
    "none",
    "string",
    "mapping",
    "sequence",
    "iterable",
    "number",
    "integer",
    "int",
    "float",
    "boolean",
    "true",
    "false",
];

/// The tree with guards.
pub(super) fn guarded<'a>(statement: &Stmt<'a>) -> Stmt<'a> {
    match statement {
        Stmt::Template(s) => Stmt::Template(again(s, |s| ast::Template { children: body(&s.children) })),
        Stmt::EmitExpr(s) => Stmt::EmitExpr(again(s, |s| ast::EmitExpr { expr: expression(&s.expr) })),
        Stmt::EmitRaw(s) => {
            // Safe, because raw text is never escaped.
            let text = Expr::Const(Spanned::new(
                ast::Const { value: Value::from_safe_string(s.raw.into()) },
                s.span(),
            ));
            Stmt::EmitExpr(again(s, |_| ast::EmitExpr { expr: text }))
        }
        Stmt::ForLoop(s) => Stmt::ForLoop(again(s, |s| ast::ForLoop {
            target: target(&s.target),
            iter: expression(&s.iter),
            filter_expr: s.filter_expr.as_ref().map(expression),
            recursive: s.recursive,
            body: body(&s.body),
            else_body: body(&s.else_body),
        })),
        Stmt::IfCond(s) => Stmt::IfCond(again(s, |s| ast::IfCond {
            expr: expression(&s.expr),
            true_body: body(&s.true_body),
            false_body: body(&s.false_body),
        })),
        Stmt::WithBlock(s) => Stmt::WithBlock(again(s, |s| ast::WithBlock {
            assignments: s
                .assignments
                .iter()
                .map(|(name, value)| (target(name), expression(value)))
                .collect(),
            body: body(&s.body),
        })),
        Stmt::Set(s) => Stmt::Set(again(s, |s| {
            let value = expression(&s.expr);
            let into = matches!(s.target, Expr::GetAttr(_));
            let expr = if into { filter(STORE, value, Vec::new(), s.expr.span()) } else { value };
            ast::Set { target: target(&s.target), expr }
        })),
        Stmt::SetBlock(s) => Stmt::SetBlock(again(s, |s| ast::SetBlock {
            target: target(&s.target),
            filter: s.filter.as_ref().map(expression),
            body: body(&s.body),
        })),
        Stmt::AutoEscape(s) => Stmt::AutoEscape(again(s, |s| ast::AutoEscape {
            enabled: expression(&s.enabled),
            body: body(&s.body),
        })),
        Stmt::FilterBlock(s) => Stmt::FilterBlock(again(s, |s| ast::FilterBlock {
            filter: expression(&s.filter),
            body: body(&s.body),
        })),
        Stmt::Block(s) => {
            Stmt::Block(again(s, |s| ast::Block { name: s.name, required: s.required, body: body(&s.body) }))
        }
        // There are no other templates, so these fail when they are executed.
        Stmt::Import(s) => {
            Stmt::Import(again(s, |s| ast::Import { expr: expression(&s.expr), name: target(&s.name) }))
        }
        Stmt::FromImport(s) => Stmt::FromImport(again(s, |s| ast::FromImport {
            expr: expression(&s.expr),
            names: s.names.iter().map(|(name, other)| (target(name), other.as_ref().map(target))).collect(),
        })),
        Stmt::Extends(s) => Stmt::Extends(again(s, |s| ast::Extends { name: expression(&s.name) })),
        Stmt::Include(s) => Stmt::Include(again(s, |s| ast::Include {
            name: expression(&s.name),
            ignore_missing: s.ignore_missing,
        })),
        Stmt::Macro(s) => Stmt::Macro(again(s, declaration)),
        Stmt::CallBlock(s) => Stmt::CallBlock(again(s, |s| ast::CallBlock {
            call: again(&s.call, call),
            macro_decl: again(&s.macro_decl, declaration),
        })),
        Stmt::Continue(s) => Stmt::Continue(again(s, |_| ast::Continue)),
        Stmt::Break(s) => Stmt::Break(again(s, |_| ast::Break)),
        Stmt::Do(s) => Stmt::Do(again(s, |s| ast::Do { call: again(&s.call, call) })),
    }
}

fn again<T, R>(node: &Spanned<T>, build: impl FnOnce(&T) -> R) -> Spanned<R> {
    Spanned::new(build(node), node.span())
}

fn body<'a>(statements: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    statements.iter().map(guarded).collect()
}

fn declaration<'a>(node: &ast::Macro<'a>) -> ast::Macro<'a> {
    ast::Macro {
        name: node.name,
        args: node.args.iter().map(target).collect(),
        defaults: node.defaults.iter().map(expression).collect(),
        body: body(&node.body),
    }
}

/// The target of an assignment: a name, an attribute, or a tuple of them.
fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::GetAttr(e) => Expr::GetAttr(again(e, |e| ast::GetAttr { expr: target(&e.expr), name: e.name })),
        Expr::List(e) => Expr::List(again(e, |e| ast::List { items: e.items.iter().map(target).collect() })),
        Expr::Tuple(e) => {
            Expr::Tuple(again(e, |e| ast::Tuple { items: e.items.iter().map(target).collect() }))
        }
        other => expression(other),
    }
}

fn expressions<'a>(items: &[Expr<'a>]) -> Vec<Expr<'a>> {
    items.iter().map(expression).collect()
}

fn filter<'a>(name: &'static str, expr: Expr<'a>, args: Vec<CallArg<'a>>, span: Span) -> Expr<'a> {
    Expr::Filter(Spanned::new(ast::Filter { name, expr: Some(expr), args }, span))
}

/// `expr` with a guard around it, unless it is a scalar constant.
fn operand<'a>(guard: &'static str, expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Const(constant)
            if constant.value.as_str().is_none() && constant.value.as_object().is_none() =>
        {
            expression(expr)
        }
        _ => filter(guard, expression(expr), Vec::new(), expr.span()),
    }
}

fn call<'a>(node: &ast::Call<'a>) -> ast::Call<'a> {
    ast::Call { expr: expression(&node.expr), args: arguments(&node.args) }
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let argument = |arg: &CallArg<'a>| match arg {
        CallArg::Pos(expr) => CallArg::Pos(operand(READ, expr)),
        CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, operand(READ, expr)),
        CallArg::PosSplat(expr) => CallArg::PosSplat(operand(SETTLE, expr)),
        CallArg::KwargSplat(expr) => CallArg::KwargSplat(operand(SETTLE, expr)),
    };
    args.iter().map(argument).collect()
}

fn expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    let span = expr.span();
    let settled = |expr: Expr<'a>| filter(SETTLE, expr, Vec::new(), span);
    match expr {
        Expr::Var(e) => Expr::Var(again(e, |e| ast::Var { id: e.id })),
        Expr::Const(e) => Expr::Const(again(e, |e| ast::Const { value: e.value.clone() })),
        Expr::Slice(e) => settled(Expr::Slice(again(e, |e| ast::Slice {
            expr: operand(COPY_OUTSIDE, &e.expr),
            start: e.start.as_ref().map(expression),
            stop: e.stop.as_ref().map(expression),
            step: e.step.as_ref().map(expression),
        }))),
        Expr::UnaryOp(e) => Expr::UnaryOp(again(e, |e| ast::UnaryOp {
            op: match e.op {
                ast::UnaryOpKind::Not => ast::UnaryOpKind::Not,
                ast::UnaryOpKind::Neg => ast::UnaryOpKind::Neg,
            },
            expr: expression(&e.expr),
        })),
        Expr::BinOp(e) => operator(e),
        Expr::Compare(e) => Expr::Compare(again(e, |e| ast::Compare {
            expr: operand(READ, &e.expr),
            ops: e.ops.iter().map(comparison).collect(),
        })),
        Expr::IfExpr(e) => Expr::IfExpr(again(e, |e| ast::IfExpr {
            test_expr: expression(&e.test_expr),
            true_expr: expression(&e.true_expr),
            false_expr: e.false_expr.as_ref().map(expression),
        })),
        Expr::Filter(e) => settled(Expr::Filter(again(e, |e| ast::Filter {
            name: e.name,
            expr: e.expr.as_ref().map(expression),
            args: arguments(&e.args),
        }))),
        Expr::Test(e) => Expr::Test(again(e, |e| ast::Test {
            name: e.name,
            expr: if OF_KINDS.contains(&e.name) { expression(&e.expr) } else { operand(READ, &e.expr) },
            args: arguments(&e.args),
        })),
        Expr::GetAttr(e) => {
            Expr::GetAttr(again(e, |e| ast::GetAttr { expr: expression(&e.expr), name: e.name }))
        }
        Expr::GetItem(e) => Expr::GetItem(again(e, |e| ast::GetItem {
            expr: expression(&e.expr),
            subscript_expr: operand(READ, &e.subscript_expr),
        })),
        Expr::Call(e) => settled(Expr::Call(again(e, call))),
        Expr::List(e) => settled(Expr::List(again(e, |e| ast::List { items: expressions(&e.items) }))),
        Expr::Tuple(e) => settled(Expr::Tuple(again(e, |e| ast::Tuple { items: expressions(&e.items) }))),
        Expr::Map(e) => settled(Expr::Map(again(e, |e| ast::Map {
            keys: e.keys.iter().map(|key| operand(READ, key)).collect(),
            values: expressions(&e.values),
        }))),
    }
}

fn operator<'a>(e: &Spanned<ast::BinOp<'a>>) -> Expr<'a> {
    let span = e.span();
    let both = |guard| {
        Expr::BinOp(again(e, |e| ast::BinOp {
            op: e.op,
            left: operand(guard, &e.left),
            right: operand(guard, &e.right),
        }))
    };
    match e.op {
        BinOpKind::Concat => both(COPY),
        // The sum of two lists is evaluated lazily.
        BinOpKind::Add => filter(SETTLE, both(COPY_OUTSIDE), Vec::new(), span),
        BinOpKind::Mul => filter(TIMES, expression(&e.left), vec![CallArg::Pos(expression(&e.right))], span),
        BinOpKind::Eq | BinOpKind::Ne | BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte
        | BinOpKind::In => both(READ),
        // These operators accept numbers only.
        BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Pow
        // These return one of their operands.
        | BinOpKind::ScAnd | BinOpKind::ScOr => {
            Expr::BinOp(again(e, |e| ast::BinOp { op: e.op, left: expression(&e.left), right: expression(&e.right) }))
        }
    }
}

fn comparison<'a>(op: &ast::CompareOp<'a>) -> ast::CompareOp<'a> {
    let kind: CompareOpKind = op.op;
    ast::CompareOp { op: kind, expr: operand(READ, &op.expr) }
}
