//! The form of a commit message, checked by the `commit-msg` hook.

use std::fs;

use anyhow::{Context, Result, bail};

/// Who may stand before the colon.
const ROOMS: &[&str] =
    &["proxy", "firewall", "routing", "bgp", "k8s", "model", "kernel", "reconcile", "admin", "docs", "ci", "xtask"];

/// The longest first line, in characters.
const LIMIT: usize = 72;

/// Checks the message in a file, as git hands it over.
pub(crate) fn check(file: &str) -> Result<()> {
    let message = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    check_message(&message)
}

fn check_message(message: &str) -> Result<()> {
    let mut lines = message.lines().filter(|line| !line.starts_with('#'));
    let subject = lines.next().unwrap_or_default();
    // What git writes itself.
    if ["Merge ", "Revert ", "fixup! ", "squash! "].iter().any(|start| subject.starts_with(start)) {
        return Ok(());
    }
    let Some((room, what)) = subject.split_once(": ") else {
        bail!("the first line is not of the form `room: what is done`: {subject:?}");
    };
    if !ROOMS.contains(&room) {
        bail!("no room is called {room:?}: {}", ROOMS.join(", "));
    }
    if what.trim().is_empty() || what.ends_with('.') {
        bail!("say after the colon what is done, without a full stop: {subject:?}");
    }
    let length = subject.chars().count();
    if length > LIMIT {
        bail!("the first line has {length} characters; {LIMIT} is the limit");
    }
    if lines.next().is_some_and(|line| !line.is_empty()) {
        bail!("the second line stays empty");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_right_form_passes() {
        for message in [
            "proxy: drain real servers before deleting them\n\nWhy and how.\n",
            "# a comment of git\nxtask: run any command on a guest kernel\n",
            "Merge branch 'x'\n",
        ] {
            check_message(message).unwrap();
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_message() {
        let told = |message: &str| check_message(message).unwrap_err().to_string();
        assert!(told("fix things").contains("room: what is done"));
        assert!(told("kitchen: cook").contains("no room is called \"kitchen\""));
        assert!(told("proxy: drain.").contains("without a full stop"));
        assert!(told(&format!("proxy: {}", "x".repeat(66))).contains("73 characters"));
        assert!(told("proxy: drain\nbody").contains("second line"));
    }
}
