//! Puts many of cargo-mutants' mutants into one source: `mutate LIST FOLDER` reads the list that
//! `cargo mutants --list --json` has written, and rewrites the files that it names in FOLDER. Each mutant becomes a
//! branch on `crate::mutant(NUMBER)`, its place in the list from 1 on; so all of them are built at once, and
//! the process chooses one as it starts.
//!
//! | mutant of | becomes |
//! | --- | --- |
//! | a function's value | `if crate::mutant(n) { return VALUE; }` before its first statement |
//! | `a op b`, `!a` | `(if crate::mutant(n) { MUTATED } else { ORIGINAL })` |
//! | a match arm that is deleted | a guard that is false |
//! | a guard of a match arm | the same with `true` or `false` |
//!
//! Only one mutant is active, so those within the operands are in the original's branch alone. Lines stay lines:
//! what the compiler says of a line and a column is said of the mutant written there. `SKIP`, a comma-separated
//! list of numbers, leaves out those that do not compile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proc_macro2::Span;
use serde_json::Value;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Arm, ExprBinary, ExprUnary};

/// Where something begins: line, and column from 1 on.
type Place = (usize, usize);

/// A mutant of one file.
struct Mutant {
    number: usize,
    genre: String,
    replacement: String,
    start: Place,
    end: Place,
}

/// What is written instead of `start..end`, where a `\0` stands for the original with what is changed within it.
struct Edit {
    start: usize,
    end: usize,
    /// Before the original, or in place of it.
    text: String,
    /// The part of the original that is kept and rendered in its turn.
    keeps: bool,
}

struct File<'a> {
    text: &'a str,
    lines: Vec<usize>,
    mutants: BTreeMap<Place, Vec<&'a Mutant>>,
    edits: Vec<Edit>,
    used: BTreeSet<usize>,
}

impl File<'_> {
    fn offset(&self, (line, column): Place) -> usize {
        let start = self.lines[line - 1];
        let rest = &self.text[start..];
        start
            + rest
                .char_indices()
                .nth(column - 1)
                .map_or(rest.len(), |(at, _)| at)
    }

    fn range(&self, span: Span) -> (usize, usize) {
        let (start, end) = (span.start(), span.end());
        (
            self.offset((start.line, start.column + 1)),
            self.offset((end.line, end.column + 1)),
        )
    }

    fn at(&self, span: Span, genre: &str) -> Vec<(usize, String)> {
        let place = (span.start().line, span.start().column + 1);
        let here = self.mutants.get(&place).into_iter().flatten();
        here.filter(|m| m.genre == genre)
            .map(|m| (m.number, m.replacement.clone()))
            .collect()
    }

    /// Wraps an expression: each of `mutated` in a branch, the original in the last.
    fn wrap(&mut self, span: Span, mutated: Vec<(usize, String)>) {
        if mutated.is_empty() {
            return;
        }
        let (start, end) = self.range(span);
        let mut text = String::from("(");
        for (number, code) in mutated {
            self.used.insert(number);
            text += &format!("if crate::mutant({number}) {{ {code} }} else ");
        }
        text += "{ \0 })";
        self.edits.push(Edit {
            start,
            end,
            text,
            keeps: true,
        });
    }
}

impl<'ast> Visit<'ast> for File<'_> {
    fn visit_expr_binary(&mut self, e: &'ast ExprBinary) {
        let ((ls, le), (rs, re)) = (self.range(e.left.span()), self.range(e.right.span()));
        let (left, right) = (&self.text[ls..le], &self.text[rs..re]);
        let mutated = self.at(e.op.span(), "BinaryOperator").into_iter();
        let mutated = mutated
            .map(|(n, op)| (n, format!("{left} {op} {right}")))
            .collect();
        self.wrap(e.span(), mutated);
        visit::visit_expr_binary(self, e);
    }

    fn visit_expr_unary(&mut self, e: &'ast ExprUnary) {
        let (start, end) = self.range(e.expr.span());
        let operand = &self.text[start..end];
        let mutated = self.at(e.op.span(), "UnaryOperator").into_iter();
        let mutated = mutated.map(|(n, _)| (n, operand.to_owned())).collect();
        self.wrap(e.span(), mutated);
        visit::visit_expr_unary(self, e);
    }

    fn visit_arm(&mut self, arm: &'ast Arm) {
        for (number, _) in self.at(arm.span(), "MatchArm") {
            self.used.insert(number);
            let (at, text) = match &arm.guard {
                Some((_, guard)) => (
                    self.range(guard.span()),
                    format!("!crate::mutant({number}) && (\0)"),
                ),
                None => {
                    let (_, end) = self.range(arm.pat.span());
                    ((end, end), format!(" if !crate::mutant({number})"))
                }
            };
            self.edits.push(Edit {
                start: at.0,
                end: at.1,
                text,
                keeps: true,
            });
        }
        if let Some((_, guard)) = &arm.guard {
            let mutated = self.at(guard.span(), "MatchArmGuard");
            self.wrap(guard.span(), mutated);
        }
        visit::visit_arm(self, arm);
    }
}

/// The text of `start..end` with the edits from `next` on, outer ones before inner ones.
fn render(text: &str, edits: &[Edit], next: &mut usize, start: usize, end: usize) -> String {
    let mut out = String::new();
    let mut at = start;
    while let Some(edit) = edits
        .get(*next)
        .filter(|e| e.start < end || e.start == e.end && e.start == end)
    {
        *next += 1;
        out += &text[at..edit.start];
        let inner = render(text, edits, next, edit.start, edit.end);
        out += &edit.text.replace('\0', &inner);
        if edit.keeps && !edit.text.contains('\0') {
            out += &inner;
        }
        at = edit.end;
    }
    out + &text[at..end]
}

fn place(value: &Value) -> Place {
    let number = |name: &str| value[name].as_u64().expect("a number") as usize;
    (number("line"), number("column"))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(folder)) = (arguments.next(), arguments.next()) else {
        panic!("mutate LIST FOLDER");
    };
    let skip = std::env::var("SKIP").unwrap_or_default();
    let skip: BTreeSet<usize> = skip.split(',').filter_map(|n| n.parse().ok()).collect();
    let list: Vec<Value> = serde_json::from_str(&fs::read_to_string(list).unwrap()).unwrap();
    let mut files: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for (number, mutant) in (1..).zip(&list) {
        let text = |name: &str| mutant[name].as_str().expect("a text").to_owned();
        if !skip.contains(&number) {
            files.entry(text("file")).or_default().push(Mutant {
                number,
                genre: text("genre"),
                replacement: text("replacement"),
                start: place(&mutant["span"]["start"]),
                end: place(&mutant["span"]["end"]),
            });
        }
    }
    for (name, mutants) in files {
        let path = format!("{folder}/{name}");
        let text = fs::read_to_string(&path).unwrap();
        let mut by_place: BTreeMap<Place, Vec<&Mutant>> = BTreeMap::new();
        for mutant in &mutants {
            by_place.entry(mutant.start).or_default().push(mutant);
        }
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
        let mut file = File {
            text: &text,
            lines: lines.collect(),
            mutants: by_place,
            edits: Vec::new(),
            used: BTreeSet::new(),
        };
        for mutant in mutants.iter().filter(|m| m.genre == "FnValue") {
            assert!(mutant.end > mutant.start);
            let at = file.offset(mutant.start);
            let (number, value) = (mutant.number, &mutant.replacement);
            let text = format!("if crate::mutant({number}) {{ return {value}; }} ");
            file.edits.push(Edit {
                start: at,
                end: at,
                text,
                keeps: true,
            });
            file.used.insert(number);
        }
        file.visit_file(&syn::parse_file(&text).unwrap());
        let (mut edits, used) = (file.edits, file.used);
        // Insertions come first; of two that begin together the longer is the outer one.
        edits.sort_by_key(|e| (e.start, e.start != e.end, std::cmp::Reverse(e.end)));
        let rendered = render(&text, &edits, &mut 0, 0, text.len());
        fs::write(&path, rendered).unwrap();
        for mutant in mutants.iter().filter(|m| !used.contains(&m.number)) {
            println!("{}", mutant.number);
        }
    }
}
