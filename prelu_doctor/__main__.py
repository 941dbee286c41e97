"""`python -m prelu_doctor`."""

from prelu_doctor.cli import main

if __name__ == "__main__":
    main()
