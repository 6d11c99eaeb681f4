//! Where a frame begins and ends in a stream of bytes. Pure; the bus brings bytes and says when the line was silent.
//!
//! Promises: however the bytes are cut, the frames are the same (for [`FrameCut::Idle`] silence is part of the input);
//! never more than `max_frame` bytes and the marks are held, whatever comes; after garbage the next whole frame is found.

use std::collections::VecDeque;

use super::checksum;
use crate::config::plan::{ChecksumPlace, ChecksumPlan, FrameCut, LinePlan};

/// What the stream held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A frame without its marks and its checksum, which was right.
    Frame(Vec<u8>),
    /// A whole frame with a wrong checksum, or without one.
    Damaged,
    /// So many bytes that belong to no frame.
    Noise(usize),
}

/// One stream.
#[derive(Debug)]
pub struct Framer {
    cut: FrameCut,
    max_frame: usize,
    checksum: Option<ChecksumPlan>,
    held: Vec<u8>,
    /// The bytes up to the next end belong to a frame that was too long.
    overlong: bool,
    heard: VecDeque<Heard>,
}

impl Framer {
    /// At the beginning of a stream.
    pub fn new(plan: &LinePlan) -> Self {
        Self {
            cut: plan.cut.clone(),
            max_frame: plan.max_frame,
            checksum: plan.checksum.clone(),
            held: Vec::new(),
            overlong: false,
            heard: VecDeque::new(),
        }
    }

    /// Takes what arrived; gives what it completed.
    pub fn push(&mut self, bytes: &[u8]) -> impl Iterator<Item = Heard> {
        for byte in bytes {
            self.held.push(*byte);
            self.step();
        }
        self.heard.drain(..)
    }

    /// The line was silent for as long as the plan asks for.
    pub fn silence(&mut self) -> Option<Heard> {
        if !matches!(self.cut, FrameCut::Idle(_)) || self.held.is_empty() {
            return None;
        }
        let body = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.overlong) { Some(Heard::Noise(body.len())) } else { Some(self.checked(body)) }
    }

    /// Forgets what is half there.
    pub fn clear(&mut self) {
        self.held.clear();
        self.overlong = false;
    }

    /// What comes now may be the middle of a frame: where only its end is marked, it is noise up to the next end.
    pub fn lose(&mut self) {
        let is_marked = match &self.cut {
            FrameCut::Marks { start, .. } | FrameCut::Length { start, .. } => !start.is_empty(),
            FrameCut::Idle(_) => false,
        };
        self.clear();
        self.overlong = !is_marked;
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Is anything of what is held more than control characters and what an open line sounds like?
    pub fn holds_text(&self) -> bool {
        self.held.iter().any(|byte| !byte.is_ascii_control() && *byte != 0xFF)
    }

    /// Looks at the stream after each byte.
    fn step(&mut self) {
        match &self.cut {
            FrameCut::Idle(_) => self.bound(),
            FrameCut::Length { start, length } => {
                let (start, length) = (start.len(), *length);
                self.find_start();
                if self.held.len() == start + length {
                    let body = self.held.split_off(start);
                    self.held.clear();
                    let heard = self.checked(body);
                    self.heard.push_back(heard);
                }
            }
            FrameCut::Marks { start, end } => {
                let (start, end) = (start.len(), end.clone());
                self.find_start();
                let behind = self.behind();
                // The start may hold the end's bytes: it never counts as one.
                let inside = self.held.len().checked_sub(behind).filter(|upto| *upto >= start + end.len());
                if self.held.len() > start && inside.is_some_and(|upto| self.held[..upto].ends_with(&end)) {
                    self.end_at(start, end.len(), behind);
                } else {
                    self.bound();
                }
            }
        }
    }

    /// Bytes of a checksum that follow the end mark.
    fn behind(&self) -> usize {
        let behind = self.checksum.as_ref().filter(|plan| plan.place == ChecksumPlace::Behind);
        behind.map_or(0, ChecksumPlan::width)
    }

    fn end_at(&mut self, start: usize, end: usize, behind: usize) {
        let mut held = std::mem::take(&mut self.held);
        if std::mem::take(&mut self.overlong) {
            return self.heard.push_back(Heard::Noise(held.len()));
        }
        if held.len() > start + self.max_frame + end + behind {
            return self.heard.push_back(Heard::Noise(held.len()));
        }
        let mut body = held.split_off(start);
        let heard = if behind == 0 {
            body.truncate(body.len() - end);
            // Empty lines stand between the frames of many instruments.
            if body.is_empty() {
                return;
            }
            self.checked(body)
        } else {
            let checked = self.checked(body);
            match checked {
                Heard::Frame(mut body) => {
                    body.truncate(body.len() - end);
                    Heard::Frame(body)
                }
                other => other,
            }
        };
        self.heard.push_back(heard);
    }

    /// Drops bytes until what is held begins like a frame. A start inside of a frame begins a new one: the old one was cut.
    fn find_start(&mut self) {
        let (FrameCut::Marks { start, .. } | FrameCut::Length { start, .. }) = &self.cut else { return };
        if start.is_empty() {
            return;
        }
        let again = matches!(self.cut, FrameCut::Marks { .. })
            && self.held.len() > start.len()
            && self.behind() == 0
            && self.held.ends_with(start);
        let noise = if again {
            self.held.len() - start.len()
        } else {
            let fits = |from: &usize| start.starts_with(&self.held[*from..]) || self.held[*from..].starts_with(start);
            (0..=self.held.len()).find(fits).unwrap_or(self.held.len())
        };
        if noise > 0 {
            self.held.drain(..noise);
            self.overlong = false;
            self.noise(noise);
        }
    }

    /// Nothing grows beyond the longest frame: what does is noise up to the next end.
    fn bound(&mut self) {
        let (marks, tail) = match &self.cut {
            FrameCut::Marks { start, end } => (start.len() + end.len() + self.behind(), end.len() + self.behind()),
            FrameCut::Length { .. } | FrameCut::Idle(_) => (0, 0),
        };
        let has_start = matches!(&self.cut, FrameCut::Marks { start, .. } if !start.is_empty());
        if self.held.len() <= self.max_frame + marks {
            return;
        }
        if has_start {
            // Only a new start can begin a frame.
            let dropped = self.held.len();
            self.held.clear();
            self.noise(dropped);
        } else {
            let dropped = self.held.len() - tail.max(1);
            self.held.drain(..dropped);
            self.overlong = true;
            self.noise(dropped);
        }
    }

    /// Noise in a row is one.
    fn noise(&mut self, bytes: usize) {
        match self.heard.back_mut() {
            Some(Heard::Noise(already)) => *already += bytes,
            _ => self.heard.push_back(Heard::Noise(bytes)),
        }
    }

    fn checked(&self, body: Vec<u8>) -> Heard {
        match &self.checksum {
            None => Heard::Frame(body),
            Some(plan) => checksum::strip(plan, &body).map_or(Heard::Damaged, |body| Heard::Frame(body.to_vec())),
        }
    }
}
