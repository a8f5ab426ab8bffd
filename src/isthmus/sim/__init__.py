"""What the simulators of protocols share (`heal.sim`, `outer.sim`): time, what must hold, planted bugs."""
