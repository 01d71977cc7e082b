"""The lab's kubelet: runs the pods that are bound to a node as processes of that node.

Standard library only: the directory is copied to a node as it is, and runs with the node's own Python
(`python3 -m kubelet --config FILE`). README.md says how it differs from the genuine kubelet.
"""
