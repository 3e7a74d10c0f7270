//! The bus inside one process. Placeholder of the module until its code stands.
