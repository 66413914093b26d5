//! Arguments of `plumbline db`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use plumbline_store::StoreOptions;

#[derive(Debug, Subcommand)]
pub(crate) enum DbCommand {
    /// Look whether everything in the file is as it must be; also while it is being served.
    #[command(
        long_about = "Look whether everything in the file is as it must be; also while it is being served.\n\n\
                      SQLite's own check of the file's structure, references between tables, that every verification has what its \
                      state promises, that every run has as many sequences as were counted, and that everything stored can be read. \
                      Reads the whole file and changes nothing.",
        after_help = "Exit codes: 0 everything is as it must be; 1 the file cannot be looked at; 2 wrong command line; 3 it is \
                      damaged, the output says where."
    )]
    Check {
        #[command(flatten)]
        file: StoreFile,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write the file anew, without gaps. Not while it is being served; needs as much free space as the file has content.
    Vacuum {
        #[command(flatten)]
        file: StoreFile,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write the stored sequences and their tokens as Parquet or JSON lines; also while the file is being served.
    Export(ExportArguments),
}

#[derive(Debug, Args)]
pub(crate) struct StoreFile {
    /// The data folder of `serve`, or the file in it
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
}

impl StoreFile {
    /// The file itself.
    pub(super) fn path(&self) -> PathBuf {
        if self.path.is_dir() { self.path.join(StoreOptions::FILE_NAME) } else { self.path.clone() }
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").args(["parquet", "ndjson"]).multiple(true).required(true))]
pub(crate) struct ExportArguments {
    #[command(flatten)]
    pub(super) file: StoreFile,
    /// Only this run
    #[arg(long)]
    pub(super) run: Option<String>,
    /// Write one row per token here, as in the tokens.parquet of a report
    #[arg(long, value_name = "FILE")]
    pub(super) parquet: Option<PathBuf>,
    /// Write one sequence a line here, with its tokens; - = stdout
    #[arg(long, value_name = "FILE")]
    pub(super) ndjson: Option<PathBuf>,
}
