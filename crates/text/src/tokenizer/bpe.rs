//! Byte-pair encoding (BPE): merging of ids.
//!
//! The merge with the lowest rank is applied first, and of equal ones the leftmost; a heap of candidates keeps the
//! time at O(n log n) although a text is not split into words. A candidate is a `u64` of the merge's rank and the
//! position of its left part, so its order is the order of application; an outdated candidate no longer finds its two
//! parts.
//!
//! To keep the heap small, a text is cut where no merge can cross: before a character that begins tokens and is never
//! inside one, unless it follows itself. In Gemma's vocabulary `▁` is such a character, so cutting does not change
//! the ids.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use tensor::{Error, Result};

/// No token, or no symbol.
const NONE: u32 = u32::MAX;

/// Minimum length of a piece in bytes; it ends at the first possible cut after that.
const PIECE: usize = 4096;

#[derive(Debug)]
pub(super) struct Bpe {
    /// Token of each character, by code point.
    chars: Vec<u32>,
    /// Characters that no merge joins to a different preceding character.
    heads: HashSet<char>,
    /// Token of each byte.
    bytes: [u32; 256],
    rules: Vec<Rule>,
    /// Index of merges by left part: those of token `l` are `rights[starts[l]..starts[l + 1]]`.
    starts: Vec<u32>,
    /// Right part and rank, in ascending order.
    rights: Vec<(u32, u32)>,
}

/// A merge; its index is its rank.
#[derive(Clone, Copy, Debug)]
struct Rule {
    left: u32,
    right: u32,
    product: u32,
}

/// A token of the text with its neighbours. After a merge into its left neighbour its token is `NONE`.
struct Symbol {
    token: u32,
    previous: u32,
    next: u32,
}

impl Bpe {
    /// Builds the tables. `ids` maps the texts of all tokens to their ids, which are below `len`.
    pub(super) fn new<'a>(
        ids: &HashMap<&str, u32>,
        len: usize,
        merges: impl Iterator<Item = Result<(Cow<'a, str>, Cow<'a, str>)>>,
    ) -> Result<Bpe> {
        let mut bytes = [NONE; 256];
        for (byte, token) in bytes.iter_mut().enumerate() {
            let text = format!("<0x{byte:02X}>");
            *token = *ids.get(&*text).ok_or_else(|| {
                Error::malformed("vocabulary", "lacks a byte token")
                    .expected(format!("a token {text}"), "none")
            })?;
        }
        let mut chars = Vec::new();
        let mut heads = HashSet::new();
        for (text, &id) in ids {
            let mut letters = text.chars();
            if let (Some(letter), None) = (letters.next(), letters.next()) {
                let at = letter as usize;
                chars.resize(chars.len().max(at + 1), NONE);
                chars[at] = id;
                heads.insert(letter);
            }
        }
        let mut rules = Vec::new();
        for merge in merges {
            let (left, right) = merge?;
            rules.push(rule(&left, &right, rules.len(), ids)?);
            if let Some(first) = right.chars().next().filter(|&first| !left.ends_with(first)) {
                heads.remove(&first);
            }
        }

        let mut by_pair: Vec<u32> = (0..rules.len() as u32).collect();
        let pair = |rank: u32| (rules[rank as usize].left, rules[rank as usize].right);
        by_pair.sort_unstable_by_key(|&rank| pair(rank));
        if let Some(twice) = by_pair.windows(2).find(|two| pair(two[0]) == pair(two[1])) {
            let [a, b] = [twice[0].min(twice[1]), twice[0].max(twice[1])];
            return Err(Error::malformed(format!("merge {b}"), "is listed twice")
                .expected("each merge once", format!("the same as merge {a}")));
        }
        let mut starts = vec![0; len + 1];
        for rule in &rules {
            starts[rule.left as usize + 1] += 1;
        }
        for left in 0..len {
            starts[left + 1] += starts[left];
        }
        let rights = by_pair.iter().map(|&rank| (pair(rank).1, rank)).collect();
        Ok(Bpe { chars, heads, bytes, rules, starts, rights })
    }

    fn rank(&self, left: u32, right: u32) -> Option<u32> {
        let range = self.starts[left as usize] as usize..self.starts[left as usize + 1] as usize;
        let rights = &self.rights[range];
        rights.binary_search_by_key(&right, |&(right, _)| right).ok().map(|at| rights[at].1)
    }

    /// Appends the ids of `text`, which must have fewer than 2³² characters.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(self.cut(rest));
            self.merge(piece, ids);
            rest = tail;
        }
    }

    /// The end of the first piece of `text`.
    fn cut(&self, text: &str) -> usize {
        let pairs = text.char_indices().zip(text.char_indices().skip(1));
        let mut cuts = pairs.filter(|((_, a), (at, b))| *at >= PIECE && a != b && self.heads.contains(b));
        cuts.next().map_or(text.len(), |(_, (at, _))| at)
    }

    fn merge(&self, text: &str, ids: &mut Vec<u32>) {
        let mut symbols = self.symbols(text);
        let pairs = (0u32..).zip(symbols.windows(2));
        let first = pairs.filter_map(|(at, two)| Some(candidate(self.rank(two[0].token, two[1].token)?, at)));
        let mut queue: BinaryHeap<Reverse<u64>> = first.collect();
        while let Some(Reverse(next)) = queue.pop() {
            let (rank, at) = ((next >> 32) as usize, next as u32);
            let rule = self.rules[rank];
            let Symbol { token, previous, next: right } = symbols[at as usize];
            if token != rule.left || right == NONE || symbols[right as usize].token != rule.right {
                continue;
            }
            let after = symbols[right as usize].next;
            symbols[right as usize].token = NONE;
            symbols[at as usize].token = rule.product;
            symbols[at as usize].next = after;
            if after != NONE {
                symbols[after as usize].previous = at;
                let rank = self.rank(rule.product, symbols[after as usize].token);
                queue.extend(rank.map(|rank| candidate(rank, at)));
            }
            if previous != NONE {
                let rank = self.rank(symbols[previous as usize].token, rule.product);
                queue.extend(rank.map(|rank| candidate(rank, previous)));
            }
        }
        ids.extend(symbols.iter().map(|symbol| symbol.token).filter(|&token| token != NONE));
    }

    /// One symbol per character, or per byte if the character is not a token.
    fn symbols(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        let mut push = |token| {
            let at = symbols.len() as u32;
            symbols.push(Symbol { token, previous: at.wrapping_sub(1), next: at + 1 });
        };
        for letter in text.chars() {
            match self.chars.get(letter as usize) {
                Some(&token) if token != NONE => push(token),
                _ => letter
                    .encode_utf8(&mut [0; 4])
                    .bytes()
                    .for_each(|byte| push(self.bytes[usize::from(byte)])),
            }
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        symbols
    }
}

fn candidate(rank: u32, at: u32) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(at))
}

fn rule(left: &str, right: &str, rank: usize, ids: &HashMap<&str, u32>) -> Result<Rule> {
    let id = |text: &str| {
        ids.get(text).copied().ok_or_else(|| {
            Error::malformed(
                format!("merge {rank}: {left:?} with {right:?}"),
                "needs a token that the vocabulary lacks",
            )
            .expected(format!("token {text:?}"), "none")
        })
    };
    Ok(Rule { left: id(left)?, right: id(right)?, product: id(&format!("{left}{right}"))? })
}
