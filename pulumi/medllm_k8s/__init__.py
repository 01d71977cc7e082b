"""The Kubernetes resources of a site, as Pulumi components."""
