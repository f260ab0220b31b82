//! Automation of this repository: `cargo xtask test | tools | images | kind | ci | tidy | codegen | bench`.

mod bench;
mod ci;
mod codegen;
mod images;
mod kind;
mod node;
mod run;
mod test;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Automation of this repository")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up what the tests need, and run all of them
    Test(test::Options),
    /// Build the servers that tests run against
    Tools,
    /// Build the images of the programs, with the Docker engine of this machine
    Images(images::Options),
    /// A Kubernetes cluster on this machine, to look at and to try things on
    #[command(subcommand)]
    Kind(kind::Action),
    /// Everything that must pass before a change is merged
    Ci(ci::Options),
    /// Check what compilers do not: directions of calls, sizes, licences, left-overs
    Tidy,
    /// Measure a release node, and the raw limits beside it
    Bench(bench::BenchArgs),
    /// Write the generated files again
    Codegen {
        /// Only say whether they are up to date
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Test(options) => test::run(&options),
        Task::Tools => tools::run(),
        Task::Images(options) => images::run(&options),
        Task::Kind(action) => kind::run(&action),
        Task::Ci(options) => ci::run(&options),
        Task::Tidy => tidy::run(),
        Task::Bench(options) => bench::run(options),
        Task::Codegen { check } => codegen::run(check),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            run::say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
