use super::*;

struct Folder {
    dir: tempfile::TempDir,
    folder: ManifestFolder,
}

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let folder = ManifestFolder::new(dir.path().to_path_buf(), "default".into());
        Self { dir, folder }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        fs::write(path, text).expect("file");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).expect("file");
    }

    /// Names of applied and deleted objects.
    fn scan(&mut self) -> (Vec<String>, Vec<String>) {
        let changes = self.folder.scan().expect("readable");
        (
            changes
                .applied
                .iter()
                .map(|object| object.key.to_string())
                .collect(),
            changes.deleted.iter().map(ToString::to_string).collect(),
        )
    }

    fn errors(&self) -> Vec<(String, Option<u32>, String)> {
        let name = |path: &Path| {
            path.strip_prefix(self.dir.path())
                .expect("inside")
                .display()
                .to_string()
        };
        self.folder
            .errors()
            .iter()
            .map(|e| (name(&e.file), e.line, e.field.clone()))
            .collect()
    }
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

fn policy(name: &str, field: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}, namespace: db}}\n\
         spec:\n  endpointSelector: {{}}\n  {field}: [{{}}]\n"
    )
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

const NOTHING: (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());

#[test]
fn only_what_changed_is_applied() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("a"));
    folder.write("sub/b.yml", &namespace("b"));
    folder.write(
        "c.json",
        r#"{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}"#,
    );
    folder.write("notes.txt", "not a manifest");
    folder.write(".hidden.yaml", &namespace("hidden"));
    assert_eq!(
        folder.scan(),
        (names(&["Namespace a", "Namespace b", "Namespace c"]), vec![])
    );
    assert_eq!(folder.scan(), NOTHING);
    folder.write("sub/b.yml", &format!("{}---\n{}", namespace("b"), namespace("d")));
    assert_eq!(folder.scan(), (names(&["Namespace b", "Namespace d"]), vec![]));
}

#[test]
fn a_deleted_file_deletes_its_objects_and_a_renamed_one_does_not() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &namespace("a"));
    folder.write("b.yaml", &namespace("b"));
    folder.scan();
    fs::rename(folder.dir.path().join("a.yaml"), folder.dir.path().join("z.yaml")).expect("rename");
    folder.remove("b.yaml");
    assert_eq!(folder.scan(), (names(&["Namespace a"]), names(&["Namespace b"])));
}

#[test]
fn a_document_that_is_gone_deletes_its_object() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &format!("{}---\n{}", namespace("a"), namespace("b")));
    folder.scan();
    folder.write("a.yaml", &namespace("a"));
    assert_eq!(folder.scan().1, names(&["Namespace b"]));
}

#[test]
fn an_invalid_object_keeps_its_last_good_state() {
    let mut folder = Folder::new();
    folder.write("p.yaml", &policy("x", "ingress"));
    assert_eq!(folder.scan().0, names(&["CiliumNetworkPolicy db/x"]));
    folder.write("p.yaml", &policy("x", "toFQDNs"));
    assert_eq!(folder.scan(), NOTHING);
    let errors = folder.errors();
    assert!(
        errors.contains(&("p.yaml".into(), Some(6), "spec.toFQDNs".into())),
        "{errors:?}"
    );
    assert_eq!(folder.scan(), NOTHING, "the error stays, and so does the state");
    assert_eq!(folder.errors(), errors);
    folder.write("p.yaml", &policy("x", "egress"));
    assert_eq!(folder.scan().0, names(&["CiliumNetworkPolicy db/x"]));
    assert!(folder.errors().is_empty());
}

#[test]
fn an_object_that_was_never_valid_is_not_applied() {
    let mut folder = Folder::new();
    folder.write("p.yaml", &policy("x", "nonsense"));
    assert_eq!(folder.scan(), NOTHING);
    folder.remove("p.yaml");
    assert_eq!(folder.scan(), NOTHING);
    assert!(folder.errors().is_empty());
}

#[test]
fn a_document_that_cannot_be_read_keeps_every_object_of_its_file() {
    let mut folder = Folder::new();
    folder.write(
        "a.yaml",
        &format!("{}---\n{}", namespace("a"), policy("x", "ingress")),
    );
    folder.scan();
    folder.write("a.yaml", &format!("{}---\nspec: [\n", namespace("a")));
    let (applied, deleted) = folder.scan();
    assert_eq!((applied, deleted), (names(&["Namespace a"]), vec![]));
    assert_eq!(folder.errors().len(), 1);
    folder.remove("a.yaml");
    assert_eq!(
        folder.scan().1,
        names(&["Namespace a", "CiliumNetworkPolicy db/x"])
    );
}

#[test]
fn a_file_that_is_truncated_keeps_its_objects() {
    let mut folder = Folder::new();
    folder.write("p.yaml", &policy("x", "ingress"));
    folder.scan();
    folder.write("p.yaml", "");
    assert_eq!(folder.scan(), NOTHING);
    assert_eq!(folder.errors(), [("p.yaml".to_owned(), None, String::new())]);
}

#[test]
fn a_file_that_is_not_text_or_too_large_keeps_its_objects() {
    let mut folder = Folder::new();
    folder.write("p.yaml", &policy("x", "ingress"));
    folder.scan();
    fs::write(folder.dir.path().join("p.yaml"), b"kind: \xff").expect("file");
    assert_eq!(folder.scan(), NOTHING);
    let file = fs::File::create(folder.dir.path().join("p.yaml")).expect("file");
    file.set_len(MOST_FILE_BYTES + 1).expect("sparse file");
    assert_eq!(folder.scan(), NOTHING);
    assert_eq!(folder.errors().len(), 1);
}

#[test]
fn of_two_definitions_the_first_file_is_used_and_the_other_reported() {
    let mut folder = Folder::new();
    folder.write("a.yaml", &policy("x", "ingress"));
    folder.write("b.yaml", &format!("# a comment\n{}", policy("x", "egress")));
    assert_eq!(folder.scan().0.len(), 1);
    assert_eq!(
        folder.errors(),
        [("b.yaml".to_owned(), Some(2), "metadata.name".to_owned())]
    );
    folder.remove("a.yaml");
    assert_eq!(folder.scan(), (names(&["CiliumNetworkPolicy db/x"]), vec![]));
}

#[test]
fn a_folder_that_is_gone_deletes_nothing() {
    let mut folder = Folder::new();
    folder.write("m/a.yaml", &namespace("a"));
    folder.folder = ManifestFolder::new(folder.dir.path().join("m"), "default".into());
    folder.scan();
    fs::rename(folder.dir.path().join("m"), folder.dir.path().join("n")).expect("rename");
    assert!(matches!(folder.folder.scan(), Err(ScanError::Folder { .. })));
    fs::rename(folder.dir.path().join("n"), folder.dir.path().join("m")).expect("rename");
    assert_eq!(folder.scan().1, Vec::<String>::new());
}

#[test]
fn the_links_of_a_mounted_config_map_are_followed_once() {
    let mut folder = Folder::new();
    folder.write("..2026_01/a.yaml", &namespace("a"));
    std::os::unix::fs::symlink("..2026_01", folder.dir.path().join("..data")).expect("link");
    std::os::unix::fs::symlink("..data/a.yaml", folder.dir.path().join("a.yaml")).expect("link");
    assert_eq!(folder.scan(), (names(&["Namespace a"]), vec![]));
    assert!(folder.errors().is_empty());
}

#[test]
fn what_was_good_before_a_restart_stays_where_the_file_is_invalid_now() {
    let mut folder = Folder::new();
    folder.write(
        "bad.yaml",
        &format!("{}---\n{}", policy("x", "ingress"), policy("w", "ingress")),
    );
    folder.write("good.yaml", &policy("z", "ingress"));
    folder.write("gone.yaml", &namespace("gone"));
    folder.scan();
    let good = folder.folder.last_good();

    folder.write(
        "bad.yaml",
        &format!("{}---\n{}", policy("x", "nonsense"), policy("w", "ingress")),
    );
    folder.remove("gone.yaml");
    folder.folder = ManifestFolder::new(folder.dir.path().to_path_buf(), "default".into());
    folder.folder.restore(good);
    let (mut applied, deleted) = folder.scan();
    applied.sort();
    let expected = [
        "CiliumNetworkPolicy db/w",
        "CiliumNetworkPolicy db/x",
        "CiliumNetworkPolicy db/z",
    ];
    assert_eq!((applied, deleted), (names(&expected), names(&["Namespace gone"])));
    assert_eq!(folder.scan(), NOTHING);
    assert!(!folder.errors().is_empty());

    // It outlives any number of restarts, and goes with the file.
    let good = folder.folder.last_good();
    folder.folder = ManifestFolder::new(folder.dir.path().to_path_buf(), "default".into());
    folder.folder.restore(good);
    assert!(folder.scan().0.contains(&"CiliumNetworkPolicy db/x".to_owned()));
    folder.remove("bad.yaml");
    assert_eq!(
        folder.scan().1,
        names(&["CiliumNetworkPolicy db/w", "CiliumNetworkPolicy db/x"])
    );
}
