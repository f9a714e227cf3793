//! Every in-tree plugin, one file each.
