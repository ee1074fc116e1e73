//! What the demonstration prints, and the count of what came true.

use std::io::IsTerminal;
use std::time::Instant;

use anyhow::Result;
use ferrovia::testing::lab::{Namespace, Node};

/// Prints, and keeps the score.
pub(crate) struct Narrator {
    colour: bool,
    start: Instant,
    step_start: Instant,
    number: usize,
    title: &'static str,
    failed: Vec<String>,
}

impl Narrator {
    pub(crate) fn new() -> Narrator {
        let now = Instant::now();
        Narrator {
            colour: std::io::stdout().is_terminal(),
            start: now,
            step_start: now,
            number: 0,
            title: "",
            failed: Vec::new(),
        }
    }

    /// Text in a colour, where there is somebody to see it.
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub(crate) fn chapter(&self, title: &str) {
        println!("\n{}\n", self.paint("1", &format!("=== {title} ===")));
    }

    /// Begins a step.
    pub(crate) fn step(&mut self, title: &'static str) {
        self.number += 1;
        self.title = title;
        self.step_start = Instant::now();
        println!("\n{}", self.paint("1", &format!("--- {}. {title} ---", self.number)));
    }

    /// Ends a step: it passed, or why not.
    pub(crate) fn end_step(&mut self, outcome: Result<()>) {
        let took = self.step_start.elapsed().as_secs_f32();
        match outcome {
            Ok(()) => println!("{} ({took:.1} s)", self.paint("32", "passed")),
            Err(error) => {
                println!("{} ({took:.1} s): {error:#}", self.paint("31", "FAILED"));
                self.failed.push(format!("{}. {}", self.number, self.title));
            }
        }
    }

    /// The closing lines; true where nothing failed.
    pub(crate) fn summary(&self) -> bool {
        let passed = self.number - self.failed.len();
        println!();
        for step in &self.failed {
            println!("failed: {step}");
        }
        let line = format!("{passed} steps passed, {} failed", self.failed.len());
        let colour = if self.failed.is_empty() { "32" } else { "31" };
        println!("{} in {:.0} s", self.paint(colour, &line), self.start.elapsed().as_secs_f32());
        self.failed.is_empty()
    }

    /// Plain text.
    pub(crate) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// A command somebody would type at `place`.
    pub(crate) fn command(&self, place: &str, command: &str) {
        println!("{} {}", self.paint("36", &format!("{place}#")), self.paint("1", command));
    }

    /// What would be typed on a real cluster; here the folder of manifests is written instead.
    pub(crate) fn kubectl(&self, command: &str) {
        println!("{} {}", self.paint("36", "you#"), self.paint("1", &format!("kubectl {command}")));
    }

    /// Runs a command in a namespace, showing it and what it prints.
    ///
    /// # Errors
    /// Where it fails.
    pub(crate) fn run(&self, place: &str, ns: &Namespace, command: &str) -> Result<String> {
        self.command(place, command);
        let output = ns.command(command)?;
        for line in output.lines() {
            println!("{line}");
        }
        Ok(output)
    }

    /// `ipvsadm -Ln` on a node.
    ///
    /// # Errors
    /// Where it fails.
    pub(crate) fn ipvsadm(&self, node: &Node) -> Result<String> {
        self.run(&node.name, &node.ns, "ipvsadm -Ln")
    }

    /// What a step expects, said before it is looked at.
    pub(crate) fn expect(&self, text: &str) {
        println!("{} {text}", self.paint("33", "expected:"));
    }
}
