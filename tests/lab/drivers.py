"""What differs between the datapaths when somebody breaks one by hand."""

from lab.espd import Control
from lab.session import wait_until


class UserDatapath:
    """espalier-espd."""
    name = "user"

    def flush_sas(self, node) -> None:
        control = Control(node.espd_socket, subscribe=False)
        for sa in control.sas():
            control.remove_key(*sa.key)
        control.close()

    def flush_policies(self, node) -> None:
        control = Control(node.espd_socket, subscribe=False)
        for reqid in control.policies():
            control.remove_policy(reqid)
        control.close()

    def delete_interface(self, node) -> None:
        node.namespace.run(["ip", "link", "delete", "espalier0"])

    def mend_interface(self, node) -> None:
        """espd's supervisor starts it again once it has ended by itself."""
        assert node.espd.wait(10) == 1
        assert "the TUN was deleted" in node.espd.log()
        node.start_espd()

    def lose_everything(self, node) -> None:
        """As the node's reboot does; the agent stays."""
        node.espd.kill()
        node.espd_socket.unlink(missing_ok=True)
        node.start_espd()

    def stop_carrying(self, node) -> None:
        node.espd.kill()


class KernelDatapath:
    """XFRM; espalier-espd only holds the UDP socket."""
    name = "kernel"

    def flush_sas(self, node) -> None:
        node.namespace.run(["ip", "xfrm", "state", "flush"])

    def flush_policies(self, node) -> None:
        node.namespace.run(["ip", "xfrm", "policy", "flush"])

    def delete_interface(self, node) -> None:
        node.namespace.run(["ip", "link", "delete", self._interface(node)])

    def mend_interface(self, node) -> None:
        wait_until(lambda: self._interface(node), 20, "the agent makes the interface again")

    def _interface(self, node) -> str:
        listed = node.namespace.run(["ip", "-o", "link", "show", "type", "xfrm"]).stdout
        return listed.split(": ")[1].partition("@")[0] if listed else ""

    def lose_everything(self, node) -> None:
        self.flush_sas(node)
        self.flush_policies(node)

    def stop_carrying(self, node) -> None:
        self.lose_everything(node)


def datapath_of(node):
    return KernelDatapath() if node.driver == "kernel" else UserDatapath()
