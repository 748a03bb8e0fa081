//! Field masks of updates (AIP-134).

use prost_types::FieldMask;

use crate::error::Violations;

/// The paths that an update names: those of the mask; without one, those of `updatable` that are set; for `*`, all of
/// them. `is_path` says of a path that isn't one of `updatable` whether it is good nevertheless, as one into a map.
pub(super) fn paths(
    mask: Option<&FieldMask>,
    updatable: &[&str],
    is_set: impl Fn(&str) -> bool,
    is_path: impl Fn(&str) -> bool,
    violations: &mut Violations,
) -> Vec<String> {
    let given: &[String] = mask.map_or(&[], |mask| &mask.paths);
    if given.is_empty() {
        return updatable.iter().filter(|path| is_set(path)).map(|path| (*path).to_owned()).collect();
    }
    if given == ["*"] {
        return updatable.iter().map(|path| (*path).to_owned()).collect();
    }
    for (index, path) in given.iter().enumerate() {
        if !updatable.contains(&path.as_str()) && !is_path(path) {
            let allowed = updatable.join(", ");
            violations.add(
                format!("update_mask.paths[{index}]"),
                "MASK_PATH",
                format!("must be one of {allowed}, or `*` alone"),
            );
        }
    }
    given.to_vec()
}
