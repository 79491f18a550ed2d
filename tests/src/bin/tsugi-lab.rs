//! Hosts made of namespaces: `./dev lab …`. See [`tsugi_tests::lab`].

fn main() -> std::process::ExitCode {
    tsugi_tests::cli::main()
}
