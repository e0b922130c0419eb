"""The engines that do the job, each a program that runs in a process of its own."""
