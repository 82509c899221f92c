"""What checks measure and reports read: the shape of each outcome's plain data. Standard library only."""
