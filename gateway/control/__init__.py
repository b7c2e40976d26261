"""The control plane: the controller process, its API, its metrics, and the route table's writer."""
