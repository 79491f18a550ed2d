//! `userconfig.xml` → [`super::ModuleDef`].
