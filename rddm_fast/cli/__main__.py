from .common.app import main

main()
