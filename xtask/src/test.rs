//! `cargo xtask test`: sets up what the tests need, then runs all of them.

use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

use crate::images;
use crate::kind;
use crate::node::Node;
use crate::run::{cargo, command, exists, output, root, say, succeed, target};
use crate::tools::{self, is_older};

/// Which tests.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Leave out the browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Only the tests that need a running node
    #[arg(long)]
    pub(crate) only_node: bool,
    /// Also the tests that take minutes
    #[arg(long)]
    pub(crate) long: bool,
    /// Only the tests on a Kubernetes cluster: makes one with kind, and removes it
    #[arg(long, conflicts_with_all = ["no_browser", "only_node", "long"])]
    pub(crate) kind: bool,
    /// With --kind: images of the programs as tests have built them, instead of static ones
    #[arg(long, requires = "kind")]
    pub(crate) debug: bool,
    /// With --kind: only the tests whose names contain one of these
    #[arg(requires = "kind")]
    pub(crate) names: Vec<String>,
}

/// Programs that cannot be set up from here, and how a person gets them on Debian.
const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "the C compiler `cc` (Debian: apt-get install build-essential)"),
    ("python3", "Python 3.9 or newer (Debian: apt-get install python3)"),
];

const BROWSER_PROGRAMS: &[(&str, &str)] = &[
    ("node", "Node.js 20 or newer (Debian: apt-get install nodejs)"),
    ("npm", "npm (Debian: apt-get install npm)"),
];

/// Runs the tests.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    if options.kind {
        require(PROGRAMS)?;
        let names: Vec<&str> = options.names.iter().map(String::as_str).collect();
        let images = images::Options { debug: options.debug, ..images::Options::default() };
        return kind::test(&names, &images);
    }
    let browser = if options.no_browser { None } else { Some(set_up_browser()?) };
    require(PROGRAMS)?;
    if !options.only_node {
        tools::run()?;
        let mut tests = cargo(&["test", "--workspace", "--all-targets", "--locked"]);
        if let Some(web) = &browser {
            web.tell(&mut tests);
        }
        succeed(&mut tests)?;
        if options.long {
            // By the name of their module: measurements are ignored, too.
            let ignored =
                ["test", "--workspace", "--tests", "--locked", "--", "--ignored", "long::"];
            succeed(&mut cargo(&ignored))?;
        }
    }
    if let Some(web) = &browser {
        web.check()?;
    }
    // The whole workspace again, so that cargo finds everything built with the features it has.
    succeed(&mut cargo(&["build", "--workspace", "--bins", "--locked"]))?;
    let directory = target().join("xtask-test");
    let node = Node::start(&target().join("debug/chat-node"), &directory)?;
    let url = node.url();
    succeed(command("python3", &["tests/protocol/client.py"]).env("CHAT_TEST_URL", &url))?;
    if let Some(web) = &browser {
        web.test(&url)?;
    }
    node.stop()?;
    say("all tests passed; the node's log has no warning and no error");
    Ok(())
}

fn require(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> =
        programs.iter().filter(|(name, _)| !exists(name)).map(|(_, how)| *how).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("the tests need {}; install it and run this again", missing.join(", and "))
}

/// The browser and the packages that drive it.
struct Browser {
    program: String,
}

fn set_up_browser() -> anyhow::Result<Browser> {
    require(BROWSER_PROGRAMS)?;
    let program = match find_chromium() {
        Some(program) => program,
        None => install_chromium()?,
    };
    let modules = web().join("node_modules/.package-lock.json");
    if is_older(&modules, &web().join("package-lock.json")) {
        succeed(
            npm(&["ci", "--no-audit", "--no-fund"]).env("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1"),
        )?;
    }
    Ok(Browser { program })
}

fn find_chromium() -> Option<String> {
    let configured = std::env::var("CHAT_TEST_CHROMIUM").ok();
    let names = ["chromium", "chromium-browser", "google-chrome"].map(str::to_owned);
    configured.into_iter().chain(names).find_map(|name| {
        let path = output(&mut command("which", &[&name])).ok()?;
        Some(path.trim().to_owned()).filter(|path| !path.is_empty())
    })
}

fn install_chromium() -> anyhow::Result<String> {
    let how = "the tests need Chromium; install it (Debian: apt-get install chromium), or set CHAT_TEST_CHROMIUM to its \
               path, or leave the browser out with --no-browser";
    tools::install(&["chromium"], || find_chromium().is_some(), how)?;
    find_chromium().context(how)
}

impl Browser {
    /// Types of the web client.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        succeed(&mut npm(&["run", "--silent", "check"]))
    }

    fn test(&self, url: &str) -> anyhow::Result<()> {
        let mut tests = npm(&["test"]);
        self.tell(&mut tests);
        succeed(tests.env("CHAT_TEST_URL", url))
    }

    /// Tells tests that there is a browser, and that they must not do without.
    fn tell(&self, tests: &mut Command) {
        tests.env("CHAT_TEST_REQUIRE", "web").env("CHAT_TEST_CHROMIUM", &self.program);
    }
}

fn web() -> std::path::PathBuf {
    root().join("tests/web")
}

fn npm(arguments: &[&str]) -> Command {
    let mut npm = command("npm", arguments);
    npm.current_dir(web());
    npm
}
