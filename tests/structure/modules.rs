//! The modules of a crate, and the paths by which each one names others.
//!
//! The reader starts at the crate's root and follows `mod` lines, as the compiler does. It leaves
//! out whatever is compiled for tests alone. It resolves no types: a method is called without
//! naming its module, and so is not seen.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::buffer::{Cursor, TokenBuffer};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItemFn, Item, ItemMod, ItemUse, UseTree};

/// The path of a module below the root of its crate; empty for the root.
pub(crate) type Name = Vec<String>;

/// The names by which one module refers to others.
#[derive(Default)]
struct Module {
    /// The file in which it stands; several, where a feature chooses between them.
    files: Vec<PathBuf>,
    /// Each path of several names that it spells out in code, and each in a `use` line.
    paths: Vec<Vec<String>>,
    /// Its `use` lines: the name within this module, and the path that it stands for.
    imports: BTreeMap<String, Vec<String>>,
}

/// All modules of one crate.
pub(crate) struct Crate {
    modules: BTreeMap<Name, Module>,
}

/// The use of one module by another.
#[derive(Clone)]
pub(crate) struct Use {
    pub(crate) from: Name,
    pub(crate) to: Name,
    /// The path as it is written, for messages.
    pub(crate) path: String,
}

impl Crate {
    /// Reads the modules below `root`, the file of the crate's root. `source` returns the text of a
    /// file that exists.
    pub(crate) fn read(root: &Path, source: &dyn Fn(&Path) -> Option<String>) -> Crate {
        let dir = root.parent().unwrap().to_owned();
        let mut reader = Reader { source, modules: BTreeMap::new(), name: Name::new(), dir };
        reader.file(root);
        Crate { modules: reader.modules }
    }

    /// The files of the crate, each once.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files: BTreeSet<&Path> =
            self.modules.values().flat_map(|module| &module.files).map(PathBuf::as_path).collect();
        files.into_iter()
    }

    /// Each module that another one names, resolved to the module in which the name is defined.
    pub(crate) fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for (from, module) in &self.modules {
            for path in &module.paths {
                if let Some(to) = self.resolved(from, path)
                    && to != *from
                {
                    uses.push(Use { from: from.clone(), to, path: path.join("::") });
                }
            }
        }
        uses
    }

    /// Everything that a module and those below it name: by the path from the root of this crate,
    /// or as it is written where another crate defines it.
    pub(crate) fn named(&self, below: &str) -> Vec<String> {
        let below: Name =
            below.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let modules = self.modules.iter().filter(|(name, _)| name.starts_with(&below));
        let mut named = Vec::new();
        for (from, module) in modules {
            named.extend(module.paths.iter().map(|path| match self.resolved(from, path) {
                Some(to) => format!("crate::{}", to.join("::")),
                None => path.join("::"),
            }));
        }
        named
    }

    /// The module that defines what `path` names within `from`; none for what other crates define.
    ///
    /// A name that a module on the way imports or exports again is followed to where it comes from.
    fn resolved(&self, from: &[String], path: &[String]) -> Option<Name> {
        let mut path = path.iter();
        let first = path.next()?;
        let mut at = match first.as_str() {
            "crate" => Name::new(),
            "self" => from.to_vec(),
            "super" => parent(from)?,
            _ => child(from, first),
        };
        if !self.modules.contains_key(&at) {
            return None;
        }
        let mut path = path.as_slice();
        while let [next, rest @ ..] = path {
            if next == "super" {
                at = parent(&at)?;
            } else if self.modules.contains_key(&child(&at, next)) {
                at.push(next.clone());
            } else {
                break;
            }
            path = rest;
        }
        if let [name, rest @ ..] = path
            && let Some(import) = self.modules[&at].imports.get(name)
        {
            let whole: Vec<String> = import.iter().chain(rest).cloned().collect();
            // What is imported from another crate is no part of this one.
            return self.resolved(&at, &whole);
        }
        Some(at)
    }
}

fn parent(name: &[String]) -> Option<Name> {
    name.split_last().map(|(_, rest)| rest.to_vec())
}

fn child(name: &[String], last: &str) -> Name {
    name.iter().cloned().chain([last.to_owned()]).collect()
}

struct Reader<'a> {
    source: &'a dyn Fn(&Path) -> Option<String>,
    modules: BTreeMap<Name, Module>,
    /// The module that is being read.
    name: Name,
    /// The folder in which the files of its children are.
    dir: PathBuf,
}

impl Reader<'_> {
    fn file(&mut self, file: &Path) {
        let text =
            (self.source)(file).unwrap_or_else(|| panic!("{} can't be read", file.display()));
        let syntax =
            syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.module(file.to_owned(), |reader| reader.visit_file(&syntax));
    }

    fn module(&mut self, file: PathBuf, read: impl FnOnce(&mut Self)) {
        self.modules.entry(self.name.clone()).or_default().files.push(file);
        read(self);
    }

    fn current(&mut self) -> &mut Module {
        self.modules.get_mut(&self.name).unwrap()
    }

    /// The file that is being read.
    fn own_file(&self) -> &Path {
        self.modules[&self.name].files.last().unwrap()
    }

    /// The file of a `mod` line.
    fn file_of(&self, item: &ItemMod) -> PathBuf {
        let name = item.ident.to_string();
        let named = item.attrs.iter().find(|attribute| attribute.path().is_ident("path"));
        if let Some(attribute) = named {
            let value = &attribute.meta.require_name_value().unwrap().value;
            let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = value else {
                panic!("#[path] of {name} is no text");
            };
            // Such a path starts at the folder of the file that has the line.
            return self.own_file().with_file_name(path.value());
        }
        let beside = self.dir.join(format!("{name}.rs"));
        if (self.source)(&beside).is_some() { beside } else { self.dir.join(name).join("mod.rs") }
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |ident: &syn::Ident| child(before, &ident.to_string());
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
            UseTree::Name(name) if name.ident == "self" => {
                self.import(before.last().unwrap().clone(), before.to_vec());
            }
            UseTree::Name(name) => self.import(name.ident.to_string(), with(&name.ident)),
            UseTree::Rename(name) => {
                let path = if name.ident == "self" { before.to_vec() } else { with(&name.ident) };
                self.import(name.rename.to_string(), path);
            }
            // No name can be followed through it: it counts as a use of the module before the star.
            UseTree::Glob(_) => self.current().paths.push(before.to_vec()),
        }
    }

    fn import(&mut self, name: String, path: Vec<String>) {
        let module = self.current();
        module.paths.push(path.clone());
        // A path of one name makes a macro of this very module visible to others.
        if path.len() > 1 {
            // Where one name is two items (a function and a type, say), both come from one module.
            module.imports.entry(name).or_insert(path);
        }
    }

    /// Paths inside a macro, which is not parsed: `crate :: a :: B`, in groups of any depth.
    fn tokens(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((inside, _, _, after)) = cursor.any_group() {
                self.tokens(inside);
                cursor = after;
                continue;
            }
            let Some((ident, after)) = cursor.ident() else {
                cursor = cursor.token_tree().unwrap().1;
                continue;
            };
            let mut path = vec![ident.to_string()];
            cursor = after;
            while let Some(after) = colons(cursor)
                && let Some((ident, after)) = after.ident()
            {
                path.push(ident.to_string());
                cursor = after;
            }
            self.spelled(path);
        }
    }

    fn spelled(&mut self, path: Vec<String>) {
        if path.len() > 1 {
            self.current().paths.push(path);
        }
    }
}

/// The position after a `::`, if one is next.
fn colons(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    let (first, after) = cursor.punct()?;
    let (second, after) = after.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(after)
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        let file = item.content.is_none().then(|| self.file_of(item));
        let dir = match &file {
            // The children of `x.rs` and of `x/mod.rs` are both in the folder `x`.
            Some(file) if !file.ends_with("mod.rs") => file.with_extension(""),
            Some(file) => file.parent().unwrap().to_owned(),
            None => self.dir.join(&name),
        };
        let outer_dir = std::mem::replace(&mut self.dir, dir);
        let outer_file = self.own_file().to_owned();
        self.name.push(name);
        match (file, &item.content) {
            (Some(file), _) => self.file(&file),
            (None, content) => self.module(outer_file, |reader| {
                content
                    .iter()
                    .flat_map(|(_, items)| items)
                    .for_each(|item| reader.visit_item(item));
            }),
        }
        self.name.pop();
        self.dir = outer_dir;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.spelled(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        visit::visit_macro(self, mac);
        let tokens = TokenBuffer::new2(mac.tokens.clone());
        self.tokens(tokens.begin());
    }

    /// `pub(in crate::a)` limits the visibility of an item, and uses nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

/// Whether it has `#[cfg(test)]`, or `#[cfg(all(test, …))]`.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let mut test = false;
        if attribute.path().is_ident("cfg") {
            let found = attribute.parse_nested_meta(|meta| {
                test |= meta.path.is_ident("test");
                if meta.path.is_ident("all") {
                    return meta.parse_nested_meta(|meta| {
                        test |= meta.path.is_ident("test");
                        skipped(&meta)
                    });
                }
                skipped(&meta)
            });
            found.unwrap_or_else(|error| panic!("an attribute that is not understood: {error}"));
        }
        test
    })
}

/// Goes past the value or the group of a condition: `feature = "x"`, `any(a, b)`.
fn skipped(meta: &syn::meta::ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Lit>()?;
    } else if meta.input.peek(syn::token::Paren) {
        meta.parse_nested_meta(|meta| skipped(&meta))?;
    }
    Ok(())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
