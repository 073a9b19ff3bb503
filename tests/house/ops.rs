//! An op is found by its name at every layer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::root;

/// The files of a folder with this ending, without it.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder of the project");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let of =
        |path: &Path| path.extension().is_some_and(|e| e == ending).then(|| path.file_stem().map(ToOwned::to_owned));
    paths.filter_map(|path| of(&path).flatten()).map(|name| name.into_string().expect("UTF-8")).collect()
}

fn ops() -> BTreeSet<String> {
    let mut ops = names("src/ops", "rs");
    assert!(ops.remove("mod") && ops.len() >= 12);
    ops
}

#[test]
fn an_op_has_one_name_at_every_layer() {
    let (native, launched, kernels) =
        (names("src/backend/native", "rs"), names("src/backend/launched", "rs"), names("kernels", "cu"));
    for op in ops() {
        let what_to_do = "an op has one name at every layer (CONTRIBUTING.md, Adding an op): add";
        assert!(native.contains(&op), "{what_to_do} src/backend/native/{op}.rs");
        assert!(launched.contains(&op), "{what_to_do} src/backend/launched/{op}.rs");
        assert!(kernels.iter().any(|kernel| kernel.starts_with(op.as_str())), "{what_to_do} kernels/{op}.cu");
    }
}

#[test]
fn a_kernel_is_named_after_its_op_or_a_call_of_it() {
    let declared: String =
        ops().iter().map(|op| fs::read_to_string(root().join(format!("src/ops/{op}.rs"))).expect("an op")).collect();
    for kernel in names("kernels", "cu") {
        let of_an_op = ops().iter().any(|op| kernel.starts_with(op.as_str()));
        // `batch_norm_backward_sums` is a stage of the call `batch_norm_backward`.
        let ends = kernel.match_indices('_').map(|(at, _)| at).chain([kernel.len()]);
        let call = ends.map(|end| &kernel[..end]).any(|call| declared.contains(&format!("fn {call}(&self")));
        // What determinism tests compare bits with; no op.
        assert!(
            of_an_op || call || kernel == "checksum",
            "name kernels/{kernel}.cu after its op, or after a call of its op's trait"
        );
        let text = fs::read_to_string(root().join(format!("kernels/{kernel}.cu"))).expect("a kernel");
        assert!(text.contains(&format!("{kernel}(")), "name the entry of kernels/{kernel}.cu as the file");
        assert!(text.starts_with("//"), "begin kernels/{kernel}.cu with what it computes");
    }
}
