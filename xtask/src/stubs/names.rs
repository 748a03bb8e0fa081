//! Names in the stubs that a generator had to change, since they would clash with others or with the language.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Outcome;

/// What users shouldn't have to have, as it is written in one language or another.
const RULES: [&str; 5] = ["buf.validate", "buf/validate", "buf_validate", "Buf.Validate", r"Buf\Validate"];

/// A language whose generator changes names that clash.
struct Language {
    /// Its folder of stubs.
    folder: &'static str,
    /// Its kind of source files.
    extension: &'static str,
    /// Whether a generator made this name of one that clashed.
    is_changed: fn(&Name<'_>) -> bool,
}

/// A name in a source file, and the code of its line.
#[derive(Clone, Copy, Debug)]
struct Name<'a> {
    text: &'a str,
    line: &'a str,
}

const LANGUAGES: [Language; 6] = [
    Language { folder: "go", extension: "go", is_changed: is_changed_go },
    Language { folder: "typescript", extension: "ts", is_changed: is_changed_typescript },
    Language { folder: "java", extension: "java", is_changed: is_changed_java },
    Language { folder: "csharp", extension: "cs", is_changed: is_changed_csharp },
    Language { folder: "php", extension: "php", is_changed: is_changed_php },
    Language { folder: "objc", extension: "h", is_changed: is_changed_objc },
];

fn is_changed_go(name: &Name<'_>) -> bool {
    name.text.ends_with('_') && name.text.starts_with(|first: char| first.is_ascii_uppercase())
}

fn is_changed_typescript(name: &Name<'_>) -> bool {
    name.text.ends_with('$')
}

/// Private fields end with `_` always. An outer class gets the suffix `OuterClass` if a message has the name of the file.
fn is_changed_java(name: &Name<'_>) -> bool {
    let text = name.text;
    let is_declared = |place: String| name.line.contains(&place);
    let is_public = ["class ", "enum ", "interface "].iter().any(|word| is_declared(format!("{word}{text}")));
    text.ends_with("OuterClass") || text.ends_with('_') && (is_public || is_declared(format!("{text}(")))
}

/// Private fields end with `_` always.
fn is_changed_csharp(name: &Name<'_>) -> bool {
    name.text.ends_with('_') && name.line.trim_start().starts_with("public ")
}

fn is_changed_php(name: &Name<'_>) -> bool {
    name.text.strip_prefix("PB").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_uppercase()))
}

/// `id` is a type of Objective-C and every object has a `description`; both stay the right names of a resource's fields.
fn is_changed_objc(name: &Name<'_>) -> bool {
    let usual = ["id_p", "Id_p", "description_p", "Description_p"];
    let is_usual = |text: &str| usual.iter().any(|end| text.ends_with(end));
    name.text.ends_with("_p") && !is_usual(name.text)
}

/// Reads all stubs.
///
/// # Errors
/// If names were changed or the validation rules are imported: all places.
pub(crate) fn check(stubs: &Path) -> Outcome {
    let mut found = BTreeSet::new();
    for language in &LANGUAGES {
        let files = files(&stubs.join(language.folder))?;
        let mut sources = 0;
        for file in files.iter().filter(|file| file.ends_with(&format!(".{}", language.extension))) {
            sources += 1;
            let text = fs::read_to_string(file)?;
            found.extend(
                changed(&text, language.is_changed).into_iter().map(|name| format!("{}: {name}", language.folder)),
            );
        }
        if sources == 0 {
            return Err(format!("no stubs of {}", language.folder).into());
        }
    }
    for file in files(stubs)? {
        let content = fs::read(&file)?;
        let text = String::from_utf8_lossy(&content);
        if RULES.iter().any(|rules| file.contains(rules) || text.contains(rules)) {
            found.insert(format!("buf.validate in {file}"));
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = found.into_iter().collect();
    Err(format!(
        "names that clash, as the generators have changed them, and rules that users don't have:\n{}",
        list.join("\n")
    )
    .into())
}

/// All files under a folder.
fn files(folder: &Path) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path.display().to_string()) }
        }
    }
    files.sort();
    Ok(files)
}

/// The changed names in a source file.
fn changed(source: &str, is_changed: impl Fn(&Name<'_>) -> bool) -> BTreeSet<String> {
    let words = |line| str::split(line, |letter| !is_letter(letter)).map(move |text| Name { text, line });
    let names = code_lines(source).flat_map(words).filter(is_changed);
    names.map(|name| name.text.to_owned()).collect()
}

fn is_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || letter == '$'
}

/// The lines of a source file that aren't comments, each up to the comment at its end.
fn code_lines(source: &str) -> impl Iterator<Item = &str> {
    let lines =
        source.lines().filter(|line| !["*", "/*", "//", "#"].iter().any(|start| line.trim_start().starts_with(start)));
    lines.map(|line| line.split(" //").next().unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_names_of_each_language_are_found() {
        let table = [
            (
                "go",
                "type CampaignNode_Exit_ struct {\n\tid_ int // KIND_\n}\n// A tag_ or Tag_.",
                vec!["CampaignNode_Exit_"],
            ),
            ("typescript", "  constructor$?: string;\n  $typeName: string;", vec!["constructor$"]),
            (
                "java",
                "public Builder getClass_() { return id_; }\nclass Tag_ {\nTagOuterClass.x",
                vec!["TagOuterClass", "Tag_", "getClass_"],
            ),
            ("csharp", "    public int Types_ {\n      get { return types_; }\n    private int id_;", vec!["Types_"]),
            ("php", "class PBExit extends GPBEmpty", vec!["PBExit"]),
            ("objc", "@property NSString *id_p;\nWebhook_FieldNumber_Id_p = 1,\nNSString *hash_p;", vec!["hash_p"]),
        ];
        for (folder, source, expected) in table {
            let language = LANGUAGES.iter().find(|language| language.folder == folder).unwrap();
            let found: Vec<_> = changed(source, language.is_changed).into_iter().collect();
            assert_eq!(found, expected, "{folder}");
        }
    }
}
