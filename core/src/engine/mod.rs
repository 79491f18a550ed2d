//! State machines of a module.
