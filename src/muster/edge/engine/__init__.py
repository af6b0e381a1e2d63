"""Module runtimes: what starts and stops modules. A runtime is one file; `base` says its port."""
