"""`pulumi up`: see README.md."""

from medllm_k8s.program import main

main()
