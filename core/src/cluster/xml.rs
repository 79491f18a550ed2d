//! `cluster.xml` → [`super::ClusterDef`].
