// The process that holds a pod's namespaces; it needs nothing but the standard library.
module slmops.dev/local-cluster/pause

go 1.26.0
