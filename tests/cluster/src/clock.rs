//! Wall clocks of nodes that can be set while they run: a small library, loaded in front of the C library's own, adds what
//! a file says.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile int64_t *offset_ms;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(NULL, sizeof *offset_ms, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset_ms = page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && offset_ms) {
        int64_t ns = time->tv_sec * INT64_C(1000000000) + time->tv_nsec + *offset_ms * INT64_C(1000000);
        time->tv_sec = ns / INT64_C(1000000000);
        time->tv_nsec = ns % INT64_C(1000000000);
    }
    return result;
}
"#;

/// The wall clock of one node.
pub struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// A clock that is right. `number` tells apart those of one directory.
    pub fn new(directory: &Path, number: usize) -> Clock {
        let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
        if !library.exists() {
            std::fs::write(&source, SOURCE).expect("the source of the clock");
            let mut compile = Command::new("cc");
            compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
            let status = compile.arg("-ldl").status().expect("the C compiler `cc`");
            assert!(status.success(), "the clock cannot be compiled");
        }
        let clock = Clock { library, offset: directory.join(format!("clock-{number}")) };
        clock.set(0);
        clock
    }

    /// Sets it this far ahead, or behind if negative. Counts at once.
    pub fn set(&self, offset_ms: i64) {
        // In place: the process has this very file in its memory.
        let mut file = std::fs::OpenOptions::new();
        let file = file.write(true).create(true).truncate(false).open(&self.offset);
        use std::os::unix::fs::FileExt;
        let written = file.and_then(|file| file.write_all_at(&offset_ms.to_ne_bytes(), 0));
        written.expect("the file of the clock's offset");
    }

    /// What a process needs to have this clock.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let path = |path: &Path| path.to_str().expect("a path of text").to_owned();
        vec![
            ("LD_PRELOAD".to_owned(), path(&self.library)),
            ("CLOCK_OFFSET_FILE".to_owned(), path(&self.offset)),
        ]
    }
}
