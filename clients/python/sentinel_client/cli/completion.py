"""`sentinel completion`: have a shell complete commands, options and names of collections."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands with Tab.

    \b
    bash: echo 'eval "$(sentinel completion bash)"' >> ~/.bashrc
    zsh:  echo 'eval "$(sentinel completion zsh)"' >> ~/.zshrc
    fish: sentinel completion fish > ~/.config/fish/completions/sentinel.fish
    """  # noqa: D301 - a real backspace, for click
    found = get_completion_class(shell)
    assert found is not None
    # The name of the variable is click's own, for a command `sentinel`.
    click.echo(found(context.find_root().command, {}, "sentinel", "_SENTINEL_COMPLETE").source())
