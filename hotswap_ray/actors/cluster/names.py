"""Names under which the detached actors are found."""

CONTROLLER = "swap_controller"
LEARNING = "learning_actor"
JUDGE = "judge"
