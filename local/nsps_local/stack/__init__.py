"""The whole system on one machine, made from the recorded Pulumi program."""
