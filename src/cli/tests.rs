//! What `--help` shows is what the parser takes: every command has its examples, and each of them parses.

use clap::{Command, CommandFactory as _, Parser as _};

use super::{Countersign, Kubectl};

/// Every command with the words that name it, the root first.
fn all(root: &Command) -> Vec<(Vec<String>, Command)> {
    let mut found = vec![(Vec::new(), root.clone())];
    let mut next = 0;
    while let Some((path, command)) = found.get(next).cloned() {
        for below in command.get_subcommands() {
            found.push(([&path[..], &[below.get_name().to_owned()]].concat(), below.clone()));
        }
        next += 1;
    }
    found
}

/// The command lines under `Examples:`: indented, no comments.
fn examples(command: &Command) -> Vec<String> {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let Some((_, rest)) = text.split_once("Examples:\n") else { return Vec::new() };
    let lines = rest.lines().take_while(|line| line.starts_with("  "));
    lines.map(str::trim).filter(|line| !line.starts_with('#')).map(ToOwned::to_owned).collect()
}

/// The words of the calls of `program` in a line of shell: quotes are taken off, and a call ends at a
/// pipe, a redirection, the end of a `$(…)` or of the line.
fn calls(line: &str, program: &str) -> Vec<Vec<String>> {
    let mut calls = Vec::new();
    for (at, _) in line.match_indices(program) {
        let (before, call) = line.split_at(at);
        let before = before.trim_end();
        let starts = before.is_empty()
            || before.ends_with(['|', '&', ';', '('])
            || before.rsplit(' ').next().is_some_and(|word| word.contains('=') && !word.contains("$("));
        let after = call.strip_prefix(program).and_then(|rest| rest.chars().next());
        if starts && matches!(after, None | Some(' ' | ')')) {
            calls.push(words(call));
        }
    }
    calls
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            ('|' | '>' | '&' | ';' | ')', None) => break,
            (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            (c, _) => word.push(c),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// On one line.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The subcommands that a parsed call came to.
fn path_of(root: &Command, words: &[String]) -> Vec<String> {
    let (mut command, mut path) = (root.clone(), Vec::new());
    for word in words {
        let Some(below) = command.find_subcommand(word).cloned() else { break };
        path.push(word.clone());
        command = below;
    }
    path
}

/// What an example calls of ours, by the subcommands that it comes to. Each must parse.
#[track_caller]
fn called(line: &str, image: &Command, tool: &Command) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for words in calls(line, "kubectl countersign") {
        assert!(Kubectl::try_parse_from(&words[1..]).is_ok(), "it does not parse: {line}");
        found.push(path_of(tool, &words[2..]));
    }
    for words in calls(line, "countersign") {
        assert!(Countersign::try_parse_from(&words).is_ok(), "it does not parse: {line}");
        // In the image a variable names the role.
        let role = line.split_once("COUNTERSIGN_ROLE=").and_then(|(_, rest)| rest.split(' ').next());
        let role: Vec<String> = role.filter(|_| words.len() == 1).map(ToOwned::to_owned).into_iter().collect();
        found.push(path_of(image, &[&role, &words[1..]].concat()));
    }
    found
}

#[test]
fn every_command_shows_two_examples_of_itself_that_parse() {
    let (image, tool) = (Countersign::command(), Kubectl::command());
    for (name, root) in [("countersign", &image), ("kubectl countersign", &tool)] {
        let commands = all(root);
        assert!(commands.len() > 10, "{name} has {} commands", commands.len());
        for (path, command) in commands {
            let lines = examples(&command);
            let of_itself =
                lines.iter().filter(|line| called(line, &image, &tool).iter().any(|to| to.starts_with(&path))).count();
            assert!(of_itself >= 2, "{name} {path:?} --help shows {of_itself} examples of itself: {lines:#?}");
            // Long lines are wrapped.
            let shown = flat(&command.clone().render_help().to_string());
            assert!(lines.iter().all(|line| shown.contains(&flat(line))), "{name} {path:?}: {shown}");
        }
    }
}

#[test]
fn an_example_is_taken_apart_as_a_shell_does() {
    let line = "A=b countersign get x --to '/a b' | kubectl countersign verify - > out";
    assert_eq!(calls(line, "countersign"), [["countersign", "get", "x", "--to", "/a b"]]);
    assert_eq!(calls(line, "kubectl countersign"), [["kubectl", "countersign", "verify", "-"]]);
    let line = "kubectl annotate x=\"$(kubectl countersign initdata pack f)\"";
    assert_eq!(calls(line, "kubectl countersign"), [["kubectl", "countersign", "initdata", "pack", "f"]]);
    assert!(calls("ls /etc/countersign/x", "countersign").is_empty());
}
